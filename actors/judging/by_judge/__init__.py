"""Answers of any model judged by any judge, for `steelyard eval`: figures, win rates and ratings.

Does not belong here: the judges (`actors.judging.judges`), and what one run says of its own models (`actors.judging.by_models`).
"""
