"""People's labels: a page on this machine that fills in a ``to_label.csv``.

Does not belong here: what the labels mean for a run (`actors.judging.judges.people`).
"""
