"""What is declared: settings, signals, run layout, exit codes. Imports no engine, so `--help` and `--dry-run` are instant."""
