"""Figures on their way out of a run: one store of all series, and the sinks that show them elsewhere."""
