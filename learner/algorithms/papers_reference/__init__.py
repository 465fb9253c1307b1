"""What the papers' reference implementation computes where the product does something else. For golden checks only.

Training never imports from here: what both share lives in ``learner/algorithms/losses.py``, ``learner/algorithms/advantages.py``,
``learner/signals`` and ``learner/algorithms/dpo.py``, and these files compose it. Each numbers the facts it keeps; why the product
differs is in ``docs/algorithms/ppo_lag.md``.
"""
