"""Constraint signals: what is measured (measure), over which samples (window), at what price (multiplier), combined how (combine).

A new dual brings `multiplier.Multiplier` with its state for checkpoints, its form in `configs.schema.signals`, a property test
of its fixed point and a line in `docs/algorithms/`. Knows no Ray and no files.
"""
