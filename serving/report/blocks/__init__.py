"""What every section is made of: blocks, charts, wording. Knows no run."""
