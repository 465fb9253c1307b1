"""Preference data from outside: formats, sources and conversion. Nothing here imports torch."""
