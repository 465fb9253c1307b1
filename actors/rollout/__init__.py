"""One step's experience: requests go to generators, responses to scorers, each exactly once by request id.

Does not belong here: what a response means (`actors.scoring`) and what is learned from it (`learner.algorithms`).
"""
