"""Answers of any model judged by any judge, for `steelyard eval`: figures, win rates and ratings."""
