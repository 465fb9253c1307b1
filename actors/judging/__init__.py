"""Judging what a policy says: the record of an answer, the judges of it, and figures with intervals over their judgements.

``responses`` is the record that every judge reads; ``judges`` are those who judge; ``pairs`` are labels of two answers to one
prompt. Does not belong here: the scorers of the loop, which are fast and always there (`actors.scoring`), and drawing answers
(`actors.generation`).
"""
