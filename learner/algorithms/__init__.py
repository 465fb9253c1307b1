"""The mathematics of an update: experience, advantages, losses, and the algorithms made of them. Knows no Ray and no files.

A new algorithm of the loop brings an estimator (`estimators.base.Estimator`), its name in `configs.schema.run.Algorithm`, a page in
`docs/algorithms/` with its numbered deviations from the paper, and a test against numbers that were computed elsewhere.
"""
