"""Sections of a report on a user's own data, where the run's own models are the only judges.

Does not belong here: sections that hold for every run (`serving.report.run`).
"""
