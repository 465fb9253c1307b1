"""What a run would take before it takes it: memory by role, seconds by phase, money, and a better split."""
