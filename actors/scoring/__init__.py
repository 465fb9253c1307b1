"""Who says in the loop how good and how harmful a response is: score models and functions, as actors next to the generators.

A new scorer brings `protocol.SignalScorer`, its entry in `start`, and for each response a finite number or a reason why there is
none; it never makes one up, for a cost that is not known means no update. A function of a user needs no new file: see
`docs/extending.md`. Does not belong here: judges that may be slow, refuse or wait for people (`actors.judging.judges`).
"""
