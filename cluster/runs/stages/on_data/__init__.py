"""Stages of a run on a user's own data, where no world knows the truth.

Does not belong here: what both kinds of run do (`cluster.runs.stages`), and reading formats (`learner.data`).
"""
