"""How good preference data is: one pass over its rows, in memory that grows by a few bytes a row. Imports no torch.

Does not belong here: rows that no format can read (`learner.data.quarantine`).
"""
