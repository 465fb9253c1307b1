"""One file per `steelyard` verb; none imports an engine before its command runs.

A verb reads its options, calls one function of the rooms below and prints what came of it; with ``--json`` as one object. Does not
belong here: what a verb does (`cluster.runs`, `cluster.evaluation`, `cluster.experiments`).
"""
