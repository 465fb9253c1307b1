"""A run as a job on a Ray cluster: submission, its record in the dashboard, following, resuming.

Does not belong here: what the job does (`cluster.job`), and the head of this machine (`cluster.resources.local_head`).
"""
