"""What may be claimed from finite samples: intervals, the certificate, calibration. Pure; no files, no clocks.

A new interval brings a coverage test at the rates and sizes that the product prints it for.
"""
