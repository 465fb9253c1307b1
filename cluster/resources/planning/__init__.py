"""What a run would take before it takes it: memory by role, seconds by phase, money, and a better split.

Does not belong here: the settings it changes (`configs.schema`), and placing actors on nodes (`cluster.resources.placement`).
"""
