"""Has changed code changed the figures? A short deterministic run of every arm gives the answer in a few minutes.

Code that is moved, renamed or extended makes no row of the results wrong. So a row does not become stale when the code's
digest changes, but when this probe's figures do: digests whose code gave the same figures count as one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.digests import digest, short
from cluster.results.cells import TABLE
from configs.exits import DataError
from configs.layout import RunLayout
from configs.load import load_settings
from configs.schema.run import RunSettings

if TYPE_CHECKING:
    from cluster.engines import Engines

FILE = "probes.json"
ARMS = (
    "projected_rate",
    "papers_log_mean",
    "pid_rate",
    "projected_cvar",
    "fixed_1",
    "grpo_lag",
    "gdpo",
    "rvpo",
    "dpo",
    "safe_dpo",
    "best_of_k",
)
"""Of the results' arms, one of each kind."""
SMALL = (
    "name=probe", "deterministic=true", "model.hidden_size=64", "model.layers=2", "model.heads=2",
    "model.intermediate_size=128", "sft.steps=60", "preferences.pairs=160", "splits.holdout=0.15",
    "splits.calibration=0.15", "reward_model.epochs=1", "cost_model.epochs=1", "ppo.steps=3", "ppo.batch_size=32",
    "ppo.minibatch_size=16", "ppo.max_response_tokens=24", "direct.epochs=1", "direct.batch_size=16", "best_of_k.k=2",
    "evaluation.samples_per_cell=20", "evaluation.samples_per_minor_cell=10", "evaluation.samples_unknown=10",
    "selection.samples=100", "selection.every=1", "certificate.samples=200",
    "resources.generators.count=1", "resources.supervised.workers=1",
)  # fmt: skip
"""Every part does its work, none learns anything: what is compared is arithmetic."""
PER_STEP = ("reward", "kl", "entropy", "actor_loss", "gradient_norm/actor", "measure/harm", "multiplier/harm")
TOLERANCE = 1e-4
"""Relative; processors round differently in the last digits, and any real change is far larger."""


@dataclass(frozen=True)
class Probe:
    """Figures, and the digests of all code that gave them."""

    codes: tuple[str, ...]
    figures: Mapping[str, float]


def probe_settings() -> RunSettings:
    """The results' preset at the smallest size, with one seed."""
    settings = load_settings(TABLE, SMALL)
    return settings.model_copy(update={"seeds": (0,), "arms": {arm: settings.arms[arm] for arm in ARMS}})


def run_probe(engines: Engines, storage: Path, say: Callable[[str], None]) -> dict[str, float]:
    """Run every arm below `storage`, which should be empty, and read its figures."""
    from cluster.arms import run_arm

    settings = probe_settings()
    layout = RunLayout(storage / settings.name)
    donors: list[RunLayout] = []
    figures: dict[str, float] = {}
    for arm in ARMS:
        say(f"probe: {arm} …")
        run_arm(settings, layout, engines, arm, 0, donors=donors)
        donors.append(layout.arm(arm, 0))
        own = f"{arm}@{short(digest(settings.arms[arm]))}"
        figures |= {f"{own}/{name}": value for name, value in figures_of(layout.arm(arm, 0)).items()}
    return figures


def figures_of(run: RunLayout) -> dict[str, float]:
    """The figures of one finished run that arithmetic decides; none that a clock decides."""
    summary: Mapping[str, Any] = json.loads(run.summary.read_text())
    found: dict[str, float | None] = {}
    lines = run.metrics.read_text().splitlines() if run.metrics.exists() else []
    for line in map(json.loads, lines):
        found |= {f"step {line['step']}/{name}": line[name] for name in PER_STEP if name in line}
    for split, cells in summary["evaluation"]["policy"].items():
        found |= {f"{split}/{measure}": cell["value"] for measure, cell in cells.items()}
    for name, each in (summary["certificate"] or {"constraints": {}})["constraints"].items():
        found[f"certificate/{name}"] = each["value"]
    return {name: float(value) for name, value in found.items() if value is not None}


def moved(figures: Mapping[str, float], known: Mapping[str, float]) -> list[str]:
    """What differs, a line each: ``arm@overrides/figure: 0.41 was 0.40``.

    An arm whose overrides have changed says nothing of the code, and is passed over; with no arm in common all has moved.
    """
    common = {arm_of(name) for name in figures} & {arm_of(name) for name in known}
    if not common:
        return ["no arm is the same as then"]
    lines = [f"{name}: is new" for name in figures if arm_of(name) in common and name not in known]
    lines += [f"{name}: is gone" for name in known if arm_of(name) in common and name not in figures]
    return lines + [
        f"{name}: {figures[name]:.6g} was {value:.6g}"
        for name, value in known.items()
        if name in figures and not math.isclose(figures[name], value, rel_tol=TOLERANCE, abs_tol=1e-6)
    ]


def arm_of(name: str) -> str:
    """The arm and the digest of its overrides."""
    return name.split("/", 1)[0]


def record(folder: Path, code: str, figures: Mapping[str, float]) -> Probe:
    """Add the code's digest to the probe that gave these figures, or begin a new one; returns it."""
    probes = [replace(each, codes=tuple(one for one in each.codes if one != code)) for each in read_probes(folder)]
    equal = next((index for index, each in enumerate(probes) if not moved(figures, each.figures)), None)
    if equal is None:
        probes.append(Probe((code,), dict(figures)))
        equal = len(probes) - 1
    else:
        known = probes[equal]
        probes[equal] = Probe((*known.codes, code), {**figures, **known.figures})
    _write([each for each in probes if each.codes], folder / FILE)
    return probes[equal]


def same_code(folder: Path, code: str) -> frozenset[str]:
    """Digests of all code that is known to give what the code of this digest gives."""
    return frozenset({code}).union(*(each.codes for each in read_probes(folder) if code in each.codes))


def read_probes(folder: Path) -> list[Probe]:
    """Every probe so far; none where there is no file.

    Raises:
        DataError: the file is no list of probes.
    """
    path = folder / FILE
    if not path.exists():
        return []
    try:
        return [Probe(tuple(each["codes"]), each["figures"]) for each in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no file of probes ({error}): remove it, and `steelyard results probe`") from error


def _write(probes: Sequence[Probe], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps([asdict(each) for each in probes], indent=0) + "\n", encoding="utf-8")
    partial.replace(path)
