"""Many runs and one question: arms with shared stages, the results table, studies of claims.

Does not belong here: one run (`cluster.runs`).
"""
