"""From terminal scores to the advantage that the policy's loss uses: one file per algorithm of the loop.

A new one brings `base.Estimator`, its name in `configs.schema.run`, and a test against numbers that were computed elsewhere.
"""
