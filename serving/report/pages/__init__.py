"""Pages that are not a run's report: evaluations, red teams, comparisons of runs."""
