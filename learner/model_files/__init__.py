"""Model folders on disk and on a hub: weights, tokenizer files, pad token, whether a model's own code may run.

Does not belong here: networks (`learner.models`).
"""
