"""The loop of rollout, scoring, learning and publishing, and what is watched at each step.

Does not belong here: what a step learns (`learner.algorithms`), and the stage around the loop (`cluster.runs.stages.ppo`).
"""
