"""What draws responses: the vLLM engine, the actor around it, its health and how new weights reach it.

Does not belong here: what judges a response (`actors.scoring`, `actors.judging`) and what hands out requests (`actors.rollout`).
"""
