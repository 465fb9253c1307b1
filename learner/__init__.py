"""What learns: losses, signals, statistics, models, DeepSpeed ranks, weight transport.

Does not belong here: generation and judging (`actors`), and when something is learned (`cluster.runs`).
"""
