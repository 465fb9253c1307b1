"""A run as a job on a Ray cluster: submission, its record in the dashboard, following, resuming."""
