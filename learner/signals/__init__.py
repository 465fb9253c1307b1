"""Constraint signals: what is measured (measure), over which samples (window), at what price (multiplier), combined how (combine)."""
