"""Answers on a user's own data judged by the run's reward and cost models: the record, figures and limits.

Does not belong here: an independent judge of the same answers (`actors.judging.judges`).
"""
