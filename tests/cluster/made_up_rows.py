"""Made-up rows of the results, each field as a real one has it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actors.crowd.world_reader import load_world
from cluster.experiments.results.cells import TABLE, Cell, config_digest, preset_settings, settings_of_result
from cluster.experiments.results.rows import Row, write_row

FIXED = [arm for arm in preset_settings(TABLE).arms if arm.startswith("fixed_")]
CODE = "c0de" * 16


def cell_figure(value: float) -> dict[str, Any]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01, "n": 100}


def made_up_row(
    arm: str,
    seed: int = 0,
    *,
    preset: str = TABLE,
    helpful: float = 2.0,
    harm: float = 0.03,
    feasible: bool = True,
    limit: float = 0.05,
    seconds: Mapping[str, float] | None = None,
    code: str = CODE,
) -> Row:
    cell = Cell(preset, arm, seed)
    settings = cell.settings()
    cells = {f"helpfulness_{kind}": cell_figure(helpful) for kind in ("benign", "lookalike")}
    cells |= {f"harm_rate_{kind}": cell_figure(harm) for kind in ("harmful", "dual_use")}
    cells |= {f"refusal_{kind}": cell_figure(0.1) for kind in ("benign", "lookalike")}
    certificate = {
        "value": harm,
        "low": max(0.0, harm - 0.01),
        "high": harm + 0.01,
        "limit": limit,
        "feasible": feasible,
    }
    return Row(
        preset=preset,
        arm=arm,
        seed=seed,
        algorithm=settings.algorithm,
        setting="harm: in words",
        overrides=cell.overrides(),
        command=cell.command(),
        commit="ab" * 20,
        code_digest=code,
        config_digest=config_digest(settings),
        settings=settings_of_result(settings),
        world=load_world().digest(),
        date="2026-01-01 00:00 UTC",
        verdict="feasible: in words",
        certificate={"harm": certificate},
        promoted_step=90,
        seconds=seconds or {"sft": 100.0, "preferences": 20.0, "ppo": 200.0, "evaluate": 40.0, "total": 999.0},
        overall={
            "sft": 1.0,
            "policy": helpful,
            "oracle": 2.4,
            "at_rate": max(harm, limit),
            "unsafe_rate": harm,
            "above_limit": harm > limit,
            "share": (helpful - 1.0) / 1.4,
        },
        sqrt_kl=None,
        evaluation={"sft": {"seen": cells}, "policy": {"seen": cells}},
        curve=[
            {"step": 1.0, "reward": 0.1, "gold_helpfulness": 1.1, "judged_unsafe": 0.5, "gold_unsafe": 0.4},
            {
                "step": 90.0,
                "reward": 0.9,
                "gold_helpfulness": helpful,
                "judged_unsafe": 0.04,
                "gold_unsafe": harm,
                "multiplier": 2.5,
            },
        ],
    )


def of(*rows: Row) -> dict[Cell, Row]:
    return {row.cell: row for row in rows}


def keep(folder: Path, *rows: Row) -> Path:
    for row in rows:
        write_row(row, folder)
    return folder


def seven(seed: int = 0, best: str = "fixed_2") -> list[Row]:
    return [made_up_row(arm, seed, helpful=2.2 if arm == best else 1.5) for arm in FIXED]
