"""The token files that supervised stages train on, written on workers: from the crowd, from files, from later rounds."""
