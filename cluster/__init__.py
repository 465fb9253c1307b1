"""Where and when it runs. A folder says when in a run its files act, and imports only from folders below it:

``commands`` → ``job`` → ``experiments`` → ``runs`` → ``evaluation``, ``jobs`` → ``resources`` → ``inputs`` → ``observability`` →
``run_folder``; ``deploy`` holds files for machines and no code of a run. Does not belong here: mathematics (`learner`), what draws
and judges (`actors`), pages for people (`serving`).
"""
