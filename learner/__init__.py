"""What learns: losses, signals, statistics, models, DeepSpeed ranks, weight transport."""
