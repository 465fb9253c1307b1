"""Red team: ways to ask that make a policy give what it should not, and a count of how often they do.

``suite`` reads attack suites (data), ``strategies`` says how each kind of attack talks, ``grammar`` fills one form for one
target, ``drive`` leads the conversations against a victim, ``labels`` says how each answer came out. ``best_of_n`` and
``attacker`` look for attacks that work better. Nothing here starts an engine: a victim is anything that answers.
"""
