"""Rounds after the first: how they are named, what they take from earlier ones, and the record of each."""
