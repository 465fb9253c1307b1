"""What is declared: settings, signals, run layout, exit codes. Imports no engine, so `--help` and `--dry-run` are instant.

Does not belong here: checks that read a file of a user other than the configuration (`cluster.inputs`).
"""
