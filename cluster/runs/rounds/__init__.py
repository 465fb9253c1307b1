"""Rounds after the first: what they take from earlier ones, their red team, and the record of each.

Does not belong here: the stages, which are the same in every round (`cluster.runs.stages`).
"""
