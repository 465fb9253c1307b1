"""`steelyard eval`: models, prompts, answers, judges, figures, in this order; `run` puts them together.

Does not belong here: the evaluation that ends a run (`cluster.runs.stages`), judges and figures (`actors.judging`).
"""
