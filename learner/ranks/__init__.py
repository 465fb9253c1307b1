"""The learner group: ranks as Ray actors, their critics, checkpoints and the rollouts they write.

Does not belong here: the mathematics of an update, which is in `learner.algorithms` and knows no Ray.
"""
