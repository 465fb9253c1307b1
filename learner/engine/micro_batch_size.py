"""How many tokens go through a model in one forward and backward pass. Imports no engine: the planner reads it too."""

from __future__ import annotations

from configs.schema.resources import LearnerSettings

TOKENS_PER_MICRO_BATCH = {"cpu": 1024, "cuda": 16384}
"""In the loop, where the settings give no number: on a CPU small ones pad less and cost nothing; a GPU wants to be filled."""

SUPERVISED_TOKENS = 8192
"""Bound on the tokens of one pass of SFT and of score models, for memory; of scoring passes, half of it."""

SUPERVISED_ROWS = 16
"""Rows of one such pass: fewer waste time on overhead, more on padding (at hidden size 128)."""

MOST_BUCKET_ELEMENTS = 50_000_000
"""DeepSpeed allocates its gradient buckets whole, and its default of 5e8 elements is 2 GB an engine in float32."""


def micro_batch_tokens(settings: LearnerSettings) -> int:
    """Tokens of one pass of a learner rank."""
    if settings.tokens_per_micro_batch is not None:
        return settings.tokens_per_micro_batch
    return TOKENS_PER_MICRO_BATCH["cuda" if settings.gpus > 0 else "cpu"]
