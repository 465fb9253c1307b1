"""What a run reads, checked before anything starts: worlds, prompts, scorers, judges, remote folders."""
