"""What may be claimed from finite samples: intervals, the certificate, calibration. Pure; no files, no clocks."""
