"""Sections of a report on a user's own data, where the run's own models are the only judges."""
