"""Answers of a model to prompts, drawn by warm engines and handed to those who judge them.

Does not belong here: judges (`actors.judging`), and which snapshot is asked (`cluster.runs.stages`).
"""
