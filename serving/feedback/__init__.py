"""People's labels: a page on this machine that fills in a ``to_label.csv``."""
