"""The training engine of one rank: DeepSpeed, collectives, micro-batch sizes, and the transport of weights.

Does not belong here: what is trained (`learner.ranks`, `learner.supervised`).
"""
