"""Where a run's time went, and what it was made of: settings, versions, digests, the manifest."""

from __future__ import annotations

import json
from typing import Any

import yaml

from serving.report.blocks.blocks import Figure, Listing, Row, Section, Table
from serving.report.run_files import RunFiles, flatten
from serving.report.run_files import missing_note as _missing
from serving.summary import STAGES


def time_section(run: RunFiles) -> Section:
    """Wall-clock time per stage, and what the loop managed."""
    title = "Time and throughput"
    if run.summary is None:
        return Section("time", title, [_missing(run, "summary")])
    seconds = run.summary.seconds
    total = seconds.get("total", 0.0)
    order = [*(stage for stage in STAGES if stage in seconds), *sorted(set(seconds) - {*STAGES, "total"}), "total"]
    rows = [
        Row(
            stage.replace("_", " "),
            (
                (_seconds(seconds[stage], f"seconds.{stage}"),),
                (Figure(f"{100 * seconds[stage] / total:.0f} %" if total else "–"),),
            ),
        )
        for stage in order
        if stage in seconds
    ]
    blocks = [Table("Wall-clock time per stage", "Stage", ("Seconds", "Share of the total"), tuple(rows))]
    if (loop := _loop_rows(run)) is not None:
        blocks.append(loop)
    return Section("time", title, blocks)


def _seconds(value: float, key: str) -> Figure:
    digits = 1 if value >= 10 else 2
    return Figure(f"{value:,.{digits}f} s", key=key, value=value)


def _loop_rows(run: RunFiles) -> Table | None:
    assert run.summary is not None
    ppo, weights = run.summary.ppo, run.summary.weights
    rows: list[Row] = []
    if ppo is not None:
        rows.append(Row("steps", ((Figure(str(ppo.steps), key="ppo.steps", value=ppo.steps),),)))
        rate = Figure(f"{ppo.samples_per_second:.1f}", key="ppo.samples_per_second", value=ppo.samples_per_second)
        rows.append(Row("samples per second", ((rate,),)))
        rows.append(
            Row("samples set aside", ((Figure(str(ppo.quarantined), key="ppo.quarantined", value=ppo.quarantined),),))
        )
        for phase, seconds in ppo.phase_seconds.items():
            rows.append(Row(f"{phase}, per step", ((_seconds(seconds, f"ppo.phase_seconds.{phase}"),),)))
    if weights is not None:
        rows.append(
            Row("weight version", ((Figure(str(weights.version), key="weights.version", value=weights.version),),))
        )
        size = Figure(f"{weights.bytes / 2**20:.1f} MiB", key="weights.bytes", value=weights.bytes)
        rows.append(Row("weights sent, per broadcast", ((size,),)))
        key = "weights.seconds_per_broadcast"
        rows.append(Row("one broadcast", ((_seconds(weights.seconds_per_broadcast, key),),)))
    return Table("The loop", "What", ("Value",), tuple(rows)) if rows else None


def provenance_section(run: RunFiles) -> Section:
    """Versions, digests, the resolved configuration and the manifest."""
    rows: list[Row] = []
    if run.summary is not None:
        rows.append(Row("seed", ((Figure(str(run.summary.seed), key="seed", value=run.summary.seed),),)))
        rows += [Row(f"{name}", ((Figure(str(value)),),)) for name, value in run.summary.preferences.items()]
        if run.summary.labelled_by is not None:
            rows.append(Row("labelled by", ((Figure(run.summary.labelled_by),),)))
        rows += [Row(f"version of {name}", ((Figure(value),),)) for name, value in sorted(run.summary.versions.items())]
        rows += [Row(f"digest of {name}", ((Figure(value),),)) for name, value in sorted(run.summary.digests.items())]
    blocks: list[Any] = (
        [Table("Seed, versions, digests", "What", ("Value",), tuple(rows))] if rows else [_missing(run, "summary")]
    )
    if run.settings:
        text = yaml.safe_dump(dict(run.settings), sort_keys=False, allow_unicode=True)
        blocks.append(Listing("Resolved configuration", text))
    else:
        blocks.append(_missing(run, "settings"))
    if run.manifest:
        text = "\n".join(f"{key}: {json.dumps(value)}" for key, value in flatten(run.manifest).items())
        blocks.append(Listing("Manifest: what each stage read and made", text))
    else:
        blocks.append(_missing(run, "manifest"))
    return Section("provenance", "Configuration and provenance", blocks)
