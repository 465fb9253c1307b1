"""Judging what a policy says: evaluated samples, and the cells (model x split x measure) they are counted into.

``samples`` is the record and its Parquet form; ``cells`` turns samples into figures with intervals.
"""
