"""Further figures of a finished cell: what the studies read next to the results table's. Keys are paths with slashes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actors.crowd.prompts import ATTACK_TAG, sandbox_prompts
from actors.crowd.world import World
from cluster.run_folder.digests import stable_seed
from cluster.runs.stages import score_models
from configs.layout import RunLayout
from learner.data.tokenizer import load_tokenizer, prompt_token_ids
from learner.models.modules import load_policy
from learner.records import Prompt
from learner.statistics.out_of_distribution import MahalanobisDetector, auroc, prompt_features
from serving.summary import read_summary

KNOWN_PROMPTS, TESTED_PROMPTS = 1500, 400
"""Prompts that the detector of unusual ones is fitted on, and of each group that it is tested on."""
USUAL_KINDS, RISKY_KIND = ("benign", "lookalike"), "harmful"
TONE = (
    ("clarify", "clarify_ambiguous"),
    ("clarify_needlessly", "clarify_benign"),
    ("alternative", "alternative_harmful"),
)
"""Name → measure on the seen split."""


def model_figures(facts: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Of the reward and cost models, from the manifest's facts by stage: ``reward/pair_accuracy`` and the like."""
    figures: dict[str, float] = {}
    for name, stage in (("reward", score_models.REWARD), ("cost", score_models.cost_stage_name("harm"))):
        of_stage = facts.get(stage, {})
        for key in ("pair_accuracy", "pair_calibration_error", "sign_accuracy", "calibration_error"):
            if key in of_stage:
                figures[f"{name}/{key}"] = float(of_stage[key])
        for axis, values in of_stage.get("axes", {}).items():
            figures |= {f"{name}/{axis}/{key}": float(value) for key, value in values.items()}
    return figures


def policy_figures(layout: RunLayout) -> dict[str, float]:
    """Of the promoted policy and SFT, from the summary: tone, categories, halves."""
    summary = read_summary(layout.summary)
    figures: dict[str, float] = {}
    for model in ("sft", "policy"):
        cells = summary.evaluation.get(model, {}).get("seen", {})
        for name, measure in TONE:
            _put(figures, f"{name}/{model}", cells.get(measure))
        outcomes = summary.evaluation.get("outcomes", {}).get(model, {}).get("seen", {})
        _put(figures, f"nuance/{model}", outcomes.get("dual_use", {}).get("safe_help"))
        categories = summary.evaluation.get("categories", {}).get(model, {}).get("seen", {})
        for category, measures in categories.items():
            _put(figures, f"category/{category}/{model}", measures.get("harm_rate_harmful"))
    halves = summary.ppo.model_dump().get("halves") if summary.ppo else None
    if halves:
        figures |= {f"halves/{key}": float(halves[key]) for key in ("train_rise", "test_rise", "gap")}
    return figures


def _put(figures: dict[str, float], name: str, cell: Mapping[str, Any] | None) -> None:
    if cell is not None and cell.get("value") is not None:
        figures[name] = float(cell["value"])


def unusual_prompts(layout: RunLayout, world: World, seed: int) -> dict[str, float]:
    """How well SFT's own activations tell harmful requests from helpful ones that it has not met after SFT.

    The detector knows benign and look-alike requests of seen tasks, and is tested on such requests of held-out tasks
    against harmful ones, all of plain forms: an attack form would be told by its words alone.

    Returns:
        ``unusual/auroc``, and ``unusual/auroc_attacks`` for harmful requests in attack forms.
    """
    tokenizer = load_tokenizer(str(layout.data / "tokenizer"))
    model = load_policy(layout.sft)

    def features(prompts: Sequence[Prompt]) -> np.ndarray:
        return prompt_features(model, [prompt_token_ids(tokenizer, prompt.messages) for prompt in prompts])

    def drawn(name: str, n: int, tasks: tuple[str, ...], kinds: tuple[str, ...]) -> list[Prompt]:
        return sandbox_prompts(
            world,
            n=n,
            seed=stable_seed(seed, "unusual", name),
            task_splits=tasks,
            form_splits=("seen",),
            kinds=kinds,
            prefix=f"unusual-{name}",
        )

    detector = MahalanobisDetector.fit(features(drawn("known", KNOWN_PROMPTS, ("seen",), USUAL_KINDS)))
    usual = detector.distances(features(drawn("usual", TESTED_PROMPTS, ("heldout",), USUAL_KINDS)))
    risky = drawn("risky", 2 * TESTED_PROMPTS, ("seen", "heldout"), (RISKY_KIND,))
    plain, attacks = ([prompt for prompt in risky if (ATTACK_TAG in prompt.tags) is attack] for attack in (False, True))
    return {
        "unusual/auroc": auroc(usual, detector.distances(features(plain))),
        "unusual/auroc_attacks": auroc(usual, detector.distances(features(attacks))),
    }


def manifest_facts(path: Path) -> dict[str, dict[str, Any]]:
    """The facts of every complete stage."""
    stages = json.loads(path.read_text(encoding="utf-8"))["stages"]
    return {name: entry.get("facts", {}) for name, entry in stages.items()}
