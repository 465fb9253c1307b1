"""One run from start to end: the pipeline, its stages in rounds, the loop, the summary.

Does not belong here: several runs (`cluster.experiments`), engines (`cluster.resources`), files of the run folder
(`cluster.run_folder`).
"""
