"""Networks: policies, score models and critics, from scratch or pretrained, by family.

Does not belong here: their files (`learner.model_files`) and their training (`learner.supervised`, `learner.ranks`).
"""
