"""The results page: which runs fill it, the rows they leave, and the tables and pictures made from the rows.

Does not belong here: claims about several arms (`cluster.experiments.studies`).
"""
