"""`steelyard eval`: models, prompts, answers, judges, figures, in this order; `run` puts them together."""
