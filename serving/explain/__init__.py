"""Questions to a finished run at the terminal: why a sample's advantage is what it is, what its models answer.

Does not belong here: figures over many samples (`serving.report`).
"""
