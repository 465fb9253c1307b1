"""What the verbs of `steelyard data` do."""
