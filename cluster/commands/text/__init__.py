"""What verbs print: tables, progress lines and summaries for a terminal.

Does not belong here: HTML (`serving.report`) and what is computed (`cluster.evaluation`, `learner.statistics`).
"""
