"""The claims of the papers as studies: arms, effects paired by seed, and one verdict each.

A new study brings its entry in `catalogue`: the claim, the arms (a preset), its effects with the threshold that decides, and what
each arm's row shows.
"""
