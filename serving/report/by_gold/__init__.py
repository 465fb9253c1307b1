"""Sections of a sandbox run's report, where gold scores say what really happened."""
