"""A comparison: variants of one configuration, on the same seeds, with shared earlier stages and warm engines.

Each arm with each seed is a run directory of its own below ``arms/``; a stage that another arm has completed under
the same key is taken over, so the arms differ in nothing but what their overrides change.
"""

from __future__ import annotations

from collections.abc import Sequence

from cluster.inputs.sources import check_inputs
from cluster.resources.engines import Engines
from cluster.run_folder.status import OnStatus, StatusWriter
from cluster.runs.pipeline import RunOutcome, one_line, run_pipeline
from configs.exits import Exit, request_to_stop
from configs.layout import RunLayout
from configs.load import arm_settings, dump_settings
from configs.schema.run import RunSettings
from serving.report import write_comparison


def run_comparison(
    settings: RunSettings,
    layout: RunLayout,
    engines: Engines,
    *,
    donors: Sequence[RunLayout] = (),
    dashboard_url: str = "",
    on_status: OnStatus | None = None,
) -> Exit:
    """Bring every arm with every seed to its end and write the comparison's report.

    The exit code says that the comparison is done; whether an arm is feasible is in its row.
    """
    layout.root.mkdir(parents=True, exist_ok=True)
    layout.config.write_text(dump_settings(settings), encoding="utf-8")
    seeds = settings.seeds or (settings.seed,)
    cells = [(seed, arm) for seed in seeds for arm in settings.arms]  # seed first: neighbours share the earlier stages
    status = StatusWriter(
        layout.status,
        run=settings.name,
        stages=[_label(*cell) for cell in cells],
        dashboard_url=dashboard_url,
        on_change=on_status,
    )
    arm_donors = list(donors)
    try:
        for seed, arm in cells:
            status.begin_stage(_label(seed, arm))
            run_arm(settings, layout, engines, arm, seed, donors=arm_donors, on_status=on_status)
            status.end_stage(_label(seed, arm))
            arm_donors.append(layout.arm(arm, seed))
        report = write_comparison(layout.root)
    except BaseException as error:
        status.finish("failed" if request_to_stop(error) is None else "stopped", one_line(error))
        raise
    status.finish("finished", f"{len(cells)} runs compared")
    print(f"report: {report}")
    return Exit.DONE


def run_arm(
    settings: RunSettings,
    layout: RunLayout,
    engines: Engines,
    arm: str,
    seed: int,
    *,
    donors: Sequence[RunLayout] = (),
    on_status: OnStatus | None = None,
) -> RunOutcome:
    """Bring one arm with one seed to its end in ``arms/<arm>-seed<seed>``, from wherever an earlier attempt left it.

    Args:
        donors: runs whose shared stages may be taken over.
    """
    variant = arm_settings(settings, arm, seed)
    inputs = check_inputs(variant)  # an arm may have a world or files of its own
    return run_pipeline(variant, layout.arm(arm, seed), inputs, engines, donors=donors, on_status=on_status)


def _label(seed: int, arm: str) -> str:
    return f"{arm}, seed {seed}"
