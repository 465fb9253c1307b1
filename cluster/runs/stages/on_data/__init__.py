"""Stages of a run on a user's own data."""
