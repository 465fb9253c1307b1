"""A made-up run on data: the real aggregation over invented answers and scores."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from actors.judging.by_models.answers import KEPT, ScoredAnswer, write_answers
from actors.judging.by_models.figures import evaluate_scored
from actors.judging.by_models.limits import Limit
from cluster.runs.stages.on_data.selection import EVERYONE, judge_candidate, promoted
from cluster.runs.stages.selection import choose
from configs.layout import RunLayout
from configs.schema.run import RunSettings
from learner.statistics.cost_zero import fit_cost_zero
from serving.summary import PpoFigures, ScoreModelFigures, Summary, WeightFigures, build_summary, write_summary
from tests.serving.fake_run import INJECTION, made_up_steps

CATEGORIES = ("homonyms", "definitions", "privacy_public")
REPLIES = ("Sure: first mix the flour, then the water.", "I'm sorry, but I can't help with that.", "Cut off in the mid")


def settings_of(name: str = "made-up", limit: float = 0.0, seed: int = 0) -> RunSettings:
    """A run on data with one constraint on the mean cost."""
    return RunSettings.model_validate(
        {
            "name": name,
            "seed": seed,
            "data": {
                "root": "/data",
                "helpfulness": [{"source": "helpful.jsonl"}],
                "evaluation": {"xstest": {"source": "xstest.csv"}},
            },
            "constraints": {"harm": {"measure": "mean", "limit": limit, "dual": {"form": "log"}}},
        }
    )


def made_up_answers(per_set: int = 40, seed: int = 0, harm: float = -0.8) -> list[ScoredAnswer]:
    """Answers of both models to two sets of prompts; `harm` is the policy's mean cost."""
    rng = random.Random(seed)
    found = [
        _answer(rng, model, name, index, harm)
        for name in (KEPT, "xstest")
        for index in range(per_set)
        for model in ("sft", "policy")
    ]
    first = found[1]
    found[1] = ScoredAnswer(**{**vars(first), "response": INJECTION})
    return found


def _answer(rng: random.Random, model: str, name: str, index: int, harm: float) -> ScoredAnswer:
    after = model == "policy"
    tags = ("harmlessness", "a tag with spaces") if index % 3 else ("helpfulness",)
    question = {"role": "user", "content": f"How do I bake bread number {index} of {name}?"}
    earlier = ({"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello, what do you need?"})
    return ScoredAnswer(
        model=model,
        set=name,
        prompt_id=f"{name}-{index:06d}",
        source_id=f"{name}-source-{index}",
        category=CATEGORIES[index % 3] if name != KEPT else None,
        tags=tags if name == KEPT else ("safe" if index % 2 else "unsafe",),
        messages=(*(earlier if index % 4 == 0 else ()), question),
        response=REPLIES[rng.randrange(2)],
        finish_reason="stop" if rng.random() > 0.1 else "length",
        response_tokens=rng.randint(6, 30),
        reward=round(rng.gauss(1.0 if after else 0.2, 0.8), 3),
        costs={"harm": round(rng.gauss(harm if after else 0.85, 0.7), 3)},
    )


def snapshot_answers(step: int, reward: float, cost: float, count: int = 60) -> list[ScoredAnswer]:
    """One snapshot's answers to the selection prompts."""
    rng = random.Random(step)
    made = [_answer(rng, "policy", EVERYONE, index, cost) for index in range(count)]
    return [ScoredAnswer(**{**vars(one), "reward": reward + 0.1 * rng.random()}) for one in made]


def made_up_document(settings: RunSettings, answers: list[ScoredAnswer], *, signed: bool = False) -> dict[str, Any]:
    """evaluation.json as the stage writes it, and under ``facts`` what the stage `selection` leaves."""
    limits = [Limit.of(name, one, None) for name, one in settings.constraints.items()]
    limit = settings.constraints["harm"].limit
    candidates = [
        judge_candidate(step, snapshot_answers(step, reward, cost), limits, settings)
        for step, reward, cost in ((10, 0.5, -0.9), (20, 0.9, -0.7), (30, 1.4, limit + 0.4))
    ]
    chosen = choose(candidates)
    facts = {
        "promoted_step": chosen.step,
        "feasible": chosen.feasible,
        "candidates": [asdict(one) for one in candidates],
        "drift": {},
    }
    found = evaluate_scored(answers, limits, reward=True, confidence=0.95)
    zero = fit_cost_zero([0.1, -0.4, -0.2], [0.5, 0.9, -0.1], rule="midpoint").document()
    about = {"judge": "cost model", "safety_labels": signed, "zero": None if signed else zero}
    found["constraints"] = {one.name: {**one.document(), **about} for one in limits}
    found["promoted"] = promoted(facts)
    return {"evaluation": found, "facts": facts}


def made_up_summary(settings: RunSettings, document: dict[str, Any]) -> Summary:
    """The summary of such a run, with invented accuracies and times."""
    return build_summary(
        name=settings.name,
        seed=settings.seed,
        evaluation={},
        scored=document["evaluation"],
        certificates={},
        reward_model=ScoreModelFigures(pair_accuracy=0.61, holdout_pairs=100),
        cost_models={"harm": ScoreModelFigures(pair_accuracy=0.53, holdout_pairs=100)},
        seconds={"total": 300.0, "data": 20.0, "sft": 80.0, "ppo": 120.0, "evaluate": 30.0},
        ppo=PpoFigures(steps=40, samples_per_second=20.5, phase_seconds={"generate": 1.2}),
        weights=WeightFigures(version=40, bytes=1_000_000, seconds_per_broadcast=0.08),
        selection=document["facts"],
        versions={"torch": "2.13.0"},
        preferences={"reward rows": 300},
        warnings=["cost of harm is relative: not a safety label"],
    )


def make_run(
    root: Path,
    *,
    per_set: int = 40,
    limit: float = 0.0,
    harm: float = -0.8,
    signed: bool = False,
    seed: int = 0,
    finished: bool = True,
) -> Path:
    """Write a whole run on data below `root`; returns `root`."""
    layout = RunLayout(root)
    layout.evaluation(1).mkdir(parents=True)
    settings = settings_of(root.name.replace(" ", "-"), limit, seed)
    answers = made_up_answers(per_set, seed, harm)
    document = made_up_document(settings, answers, signed=signed)
    layout.config.write_text(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False))
    stages = {"data": {"facts": {"harm-labels": {"harm": {"signed": 4 * signed, "unsafe": 0, "pairs": 9}}}}}
    layout.manifest.write_text(json.dumps({"stages": stages}))
    layout.metrics.write_text("".join(json.dumps(line) + "\n" for line in made_up_steps()))
    if finished:
        write_answers(answers, layout.evaluation(1) / "samples.parquet")
        (layout.evaluation(1) / "evaluation.json").write_text(json.dumps(document["evaluation"]))
        write_summary(made_up_summary(settings, document), layout.summary)
    return root
