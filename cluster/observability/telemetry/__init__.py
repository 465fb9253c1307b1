"""Figures on their way out of a run: one store of all series, and the sinks that show them elsewhere.

Every name is in `configs.metrics`. A sink that fails is a warning and never the end of a run.
"""
