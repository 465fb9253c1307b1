"""What people and programs talk to: the report, the label page, chat, explanations of single samples.

Does not belong here: figures (`actors.judging`, `learner.statistics`); a page shows what a file of the run folder says.
"""
