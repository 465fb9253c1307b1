"""The stages of a run, one file each: sft → pairs → preferences → reward model + cost models → PPO-Lag → evaluate.

A new stage brings a function that makes its `base.Stage` from settings: its name, the earlier stages it reads, the part of the
settings that changes what comes out, and what it runs. Its key follows from these, from its inputs' content and from its code, so
that a finished stage is taken again where nothing changed.
"""
