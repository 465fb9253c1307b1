"""Training on fixed sets, through Ray Train: SFT, reward and cost models, DPO.

Does not belong here: the update of the loop (`learner.algorithms`) and what draws or labels the sets (`actors`).
"""
