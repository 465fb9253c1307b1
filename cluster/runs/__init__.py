"""One run from start to end: the pipeline, its stages in rounds, the loop, the summary."""
