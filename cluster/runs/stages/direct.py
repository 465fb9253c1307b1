"""Stage `direct`: the policy of `dpo` or `safe_dpo`, straight from the labelled pairs."""

from __future__ import annotations

from actors.crowd.direct_data import write_direct_pairs
from cluster.runs.context import RunContext
from cluster.runs.stages import preferences, sft
from cluster.runs.stages.base import TRAINING, Stage, StageOutput, entry_of
from configs.schema.run import RunSettings
from learner.deadlines import fetch_result
from learner.supervised.direct import DirectTask

NAME = "direct"


def direct_stage(settings: RunSettings) -> Stage:
    """The policy for these settings."""
    return Stage(
        name=NAME,
        inputs=(sft.NAME, preferences.NAME),
        settings={
            "seed": settings.seed,
            "algorithm": settings.algorithm,
            "direct": settings.direct.model_dump(mode="json"),
            "workers": settings.resources.supervised.workers,
            "deterministic": settings.deterministic,
        },
        code=(entry_of(_run), *TRAINING, "learner.supervised.direct:train_direct"),
        run=_run,
        shared=False,
    )


def _run(context: RunContext) -> StageOutput:
    settings, layout, number = context.settings, context.layout, context.round_number
    kind = settings.algorithm
    assert kind == "dpo" or kind == "safe_dpo", kind
    data = layout.data / f"{kind}.parquet"
    counts: dict[str, int] = fetch_result(
        write_direct_pairs.remote(str(layout.preferences(number) / "preferences.parquet"), str(data), kind),
        deadline_seconds=settings.resources.deadlines.score_seconds,
        operation="write_direct_pairs",
    )
    task = DirectTask(
        name=NAME,
        kind=kind,
        data=data,
        policy=layout.sft,
        output=layout.policy(number),
        settings=settings.direct,
        seed=settings.seed,
    )
    metrics = context.engines.train(task, context.status)
    return StageOutput((layout.policy(number),), {"kind": kind, "comparisons": counts, **metrics})
