"""Preference data from outside: formats, sources and conversion. Nothing here imports torch.

A new format brings a `layout.Format`: how its rows are recognised by their fields, how a row becomes a record, and what its writer
cannot express. Does not belong here: tokens (`actors.training_sets`).
"""
