"""What the papers' reference implementation computes where the product does something else. For golden checks only.

What both share is in ``learner/algorithms/losses.py``, ``learner/algorithms/advantages.py``, ``learner/signals`` and
``learner/algorithms/dpo.py``: these files call it, so the golden checks call what training calls. Each file numbers
the facts it keeps; why the product differs is in ``docs/algorithms/ppo_lag.md``.
"""
