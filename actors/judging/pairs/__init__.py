"""Labels of pairs of answers: which was better, which safer, and how they become rows of a preference set.

Does not belong here: who gives a label (`actors.judging.judges`), and the files that score models train on (`actors.training_sets`).
"""
