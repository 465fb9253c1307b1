"""Has changed code changed the figures? A short deterministic run of every arm gives the answer in a few minutes.

Code that is moved, renamed or extended makes no row of the results wrong. So a row does not become stale when the code's
digest changes, but when this probe's figures do: digests whose code gave the same figures count as one.

Processors round differently, and three rounds of training amplify that past any tolerance that would still notice a change.
So figures belong to a kind of processor: code is compared with what earlier code gave on the same kind, and where there is no
such probe yet, the command says so; running it at an earlier commit on this machine makes one.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.experiments.results.cells import TABLE
from cluster.run_folder.digests import digest, short
from configs.exits import DataError
from configs.layout import RunLayout
from configs.load import arm_settings, load_settings
from configs.schema.run import RunSettings

if TYPE_CHECKING:
    from cluster.resources.engines import Engines

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
STUDIED = {
    "study_harmless_only": ("harmless_only",),
    "study_decoupling": ("mixed_labels",),
    "study_label_noise": ("noisy", "biased"),
    "study_poisoning": ("scattered",),
    "study_shuffled": ("shuffled",),
    "study_preference_models": ("halves",),
    "study_tension": ("harmless_50",),
    "study_fresh": ("fresh",),
}
"""Of the studies' arms those that take another path: other labels, other models, rounds. Sizes take none."""
SMALL = (
    "name=probe",
    "deterministic=true",
    "model.hidden_size=64",
    "model.layers=2",
    "model.heads=2",
    "model.intermediate_size=128",
    "sft.steps=60",
    "preferences.pairs=160",
    "splits.holdout=0.15",
    "splits.calibration=0.15",
    "reward_model.epochs=1",
    "cost_model.epochs=1",
    "ppo.steps=3",
    "ppo.batch_size=32",
    "ppo.minibatch_size=16",
    "ppo.max_response_tokens=24",
    "direct.epochs=1",
    "direct.batch_size=16",
    "best_of_k.k=2",
    "evaluation.samples_per_cell=20",
    "evaluation.samples_per_minor_cell=10",
    "evaluation.samples_unknown=10",
    "selection.samples=100",
    "selection.every=1",
    "certificate.samples=200",
    "resources.generators.count=1",
    "resources.supervised.workers=1",
)
"""Every part does its work, none learns anything: what is compared is arithmetic."""
FIXED_HERE = frozenset({"preferences.pairs", "ppo.steps", "ppo.checkpoint_every", "selection.every"})
"""What an arm may not make large again."""
PER_STEP = ("reward", "kl", "entropy", "actor_loss", "gradient_norm/actor", "measure/harm", "multiplier/harm")
TOLERANCE = 1e-4
"""Relative; processors round differently in the last digits, and any real change is far larger."""


@dataclass(frozen=True)
class Probe:
    """Figures, and the digests of all code that gave them."""

    codes: tuple[str, ...]
    figures: Mapping[str, float]
    processor: str = ""
    """The kind that computed them; empty in files of before it was noted, which are compared on any."""


def probe_settings(preset: str = TABLE, arms: Sequence[str] = ARMS) -> RunSettings:
    """The preset at the smallest size, with one seed and these of its arms."""
    settings = load_settings(preset, SMALL)
    return settings.model_copy(
        update={
            "seeds": (0,),
            "arms": {
                arm: {key: value for key, value in settings.arms[arm].items() if key not in FIXED_HERE} for arm in arms
            },
        }
    )


def run_probe(engines: Engines, storage: Path, say: Callable[[str], None]) -> dict[str, float]:
    """Run every arm below `storage`, which should be empty, and read its figures."""
    donors: list[RunLayout] = []
    figures: dict[str, float] = {}
    for preset, arms in {TABLE: ARMS, **STUDIED}.items():
        settings = probe_settings(preset, arms)
        for arm in arms:
            say(f"probe: {arm} …")
            arm_layout = RunLayout(storage / preset).arm(arm, 0)
            arm_figures = _run_arm(preset, settings, arm, storage, engines, donors)
            donors.append(arm_layout)
            key = f"{arm}@{short(digest(settings.arms[arm]))}"
            figures |= {f"{key}/{name}": value for name, value in arm_figures.items()}
    return figures


def _run_arm(
    preset: str, settings: RunSettings, arm: str, storage: Path, engines: Engines, donors: Sequence[RunLayout]
) -> dict[str, float]:
    """Bring one arm to its end; its figures, and for an arm of a study those that only studies read."""
    from cluster.experiments.arms import run_arm
    from cluster.experiments.studies.catalogue import MODELS_ONLY
    from cluster.experiments.studies.figures import manifest_facts, model_figures, policy_figures
    from cluster.inputs.sources import check_inputs
    from cluster.runs.pipeline import run_until
    from cluster.runs.stages import score_models

    layout = RunLayout(storage / preset)
    arm_layout = layout.arm(arm, 0)
    if preset in MODELS_ONLY:
        varied = arm_settings(settings, arm, 0)
        run_until(score_models.REWARD, varied, arm_layout, check_inputs(varied), engines, donors=donors)
        return model_figures(manifest_facts(arm_layout.manifest))
    run_arm(settings, layout, engines, arm, 0, donors=donors)
    if preset == TABLE:
        return figures_of(arm_layout)
    return figures_of(arm_layout) | model_figures(manifest_facts(arm_layout.manifest)) | policy_figures(arm_layout)


def figures_of(run: RunLayout) -> dict[str, float]:
    """The figures of one finished run that arithmetic decides; none that a clock decides."""
    summary: Mapping[str, Any] = json.loads(run.summary.read_text())
    figures: dict[str, float | None] = {}
    for path in (run.metrics, *sorted(run.root.glob(f"rounds/*/{run.metrics.name}"))):
        of_round = "" if path == run.metrics else f"round {path.parent.name}/"
        for line in map(json.loads, path.read_text().splitlines() if path.exists() else []):
            figures |= {f"{of_round}step {line['step']}/{name}": line[name] for name in PER_STEP if name in line}
    for split, cells in summary["evaluation"]["policy"].items():
        figures |= {f"{split}/{measure}": cell["value"] for measure, cell in cells.items()}
    for name, certificate in (summary["certificate"] or {"constraints": {}})["constraints"].items():
        figures[f"certificate/{name}"] = certificate["value"]
    return {name: float(value) for name, value in figures.items() if value is not None}


def moved(figures: Mapping[str, float], recorded: Mapping[str, float]) -> list[str]:
    """What differs, a line each: ``arm@overrides/figure: 0.41 was 0.40``.

    An arm whose overrides have changed says nothing of the code, and is passed over; with no arm in common all has moved.
    """
    common = {arm_of(name) for name in figures} & {arm_of(name) for name in recorded}
    if not common:
        return ["no arm is the same as then"]
    lines = [f"{name}: is new" for name in figures if arm_of(name) in common and name not in recorded]
    lines += [f"{name}: is gone" for name in recorded if arm_of(name) in common and name not in figures]
    return lines + [
        f"{name}: {figures[name]:.6g} was {value:.6g}"
        for name, value in recorded.items()
        if name in figures and not math.isclose(figures[name], value, rel_tol=TOLERANCE, abs_tol=1e-6)
    ]


def arm_of(name: str) -> str:
    """The arm and the digest of its overrides."""
    return name.split("/", 1)[0]


def processor_kind() -> str:
    """Vendor, family and model of this machine's processor, as ``GenuineIntel 6-143``; the architecture where Linux says less."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if {"vendor_id", "cpu family", "model"} <= facts.keys():
        return f"{facts['vendor_id']} {facts['cpu family']}-{facts['model']}"
    return platform.machine()


def comparable(probes: Sequence[Probe], processor: str) -> list[Probe]:
    """Those of this kind of processor, and those that do not say; the latest last."""
    return [probe for probe in probes if not probe.processor] + [
        probe for probe in probes if probe.processor == processor and processor
    ]


def record(folder: Path, code: str, figures: Mapping[str, float], processor: str = "") -> Probe:
    """Add the code's digest to the probe of this processor that gave these figures, or begin a new one; returns it.

    On one kind of processor a digest is in one probe only.
    """
    probes = read_probes(folder)
    matching = next(
        (probe for probe in reversed(comparable(probes, processor)) if not moved(figures, probe.figures)), None
    )
    if matching is None:
        result = Probe((code,), dict(figures), processor)
    else:
        codes = (*(probed_code for probed_code in matching.codes if probed_code != code), code)
        result = replace(matching, codes=codes, figures={**figures, **matching.figures})
    other_probes = [
        replace(probe, codes=tuple(probed_code for probed_code in probe.codes if probed_code != code))
        if probe.processor == result.processor
        else probe
        for probe in probes
        if probe is not matching
    ]
    _write([probe for probe in (*other_probes, result) if probe.codes], folder / FILE)
    return result


def same_code(folder: Path, code: str) -> frozenset[str]:
    """Digests of all code that is known to give what the code of this digest gives, on one processor or another."""
    probes, reached = read_probes(folder), frozenset({code})
    while True:
        wider = reached.union(*(probe.codes for probe in probes if reached & set(probe.codes)))
        if wider == reached:
            return reached
        reached = wider


def read_probes(folder: Path) -> list[Probe]:
    """Every probe so far; none where there is no file.

    Raises:
        DataError: the file is no list of probes.
    """
    path = folder / FILE
    if not path.exists():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return [Probe(tuple(entry["codes"]), entry["figures"], entry.get("processor", "")) for entry in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no file of probes ({error}): remove it, and `steelyard results probe`") from error


def _write(probes: Sequence[Probe], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps([asdict(probe) for probe in probes], indent=0) + "\n", encoding="utf-8")
    partial.replace(path)
