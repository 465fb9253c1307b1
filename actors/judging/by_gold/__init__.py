"""Answers on the sandbox judged by gold score: the record, the task that fills it, and figures over it.

Does not belong here: gold score itself (`actors.crowd.gold`).
"""
