"""What a run reads, checked before anything starts: worlds, prompts, scorers, judges, remote folders.

What is wrong here ends with one line that names file, row or key, before an engine runs. Does not belong here: formats of data
(`learner.data`) and settings alone (`configs`).
"""
