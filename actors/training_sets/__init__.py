"""The token files that supervised stages train on, written on workers: from the crowd, from files, from later rounds.

Does not belong here: reading formats (`learner.data`) and training on the files (`learner.supervised`).
"""
