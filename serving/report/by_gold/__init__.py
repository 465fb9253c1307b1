"""Sections of a sandbox run's report, where gold scores say what really happened.

Does not belong here: sections that hold for every run (`serving.report.run`).
"""
