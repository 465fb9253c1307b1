"""rounds.json: of every finished round, which model made which data, and its figures; the summary and the report show it.

Read from the manifest and the round's files alone, so that a run that is resumed writes the same record again.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from actors.judging.by_models.answers import KEPT, POLICY, SFT
from actors.training_sets.on_data import unsafe_share
from cluster.run_folder.digests import model_digest
from cluster.run_folder.round_names import split_name, stage_name
from cluster.run_folder.status import replace_text
from cluster.runs.context import RunContext
from cluster.runs.loop.ppo_loop import prompts_of
from cluster.runs.round_inputs import policy_folder, policy_name, start_policy, start_round
from cluster.runs.rounds import red_team
from cluster.runs.stages import evaluate, ppo, preferences, score_models, selection
from cluster.runs.stages.on_data import data
from learner.statistics.agreement import krippendorff_interval, raw_agreement
from learner.statistics.intervals import wilson

SCHEMA_VERSION = 1
QUESTIONS = {"safety_0": "safety", "safety_1": "safety", "helpfulness": "helpfulness", "harmlessness": "harmlessness"}
"""Question of a vote to the name that its agreement goes by; a mixed crowd's `overall` keeps its own."""


def write_rounds(context: RunContext, records: Sequence[Mapping[str, Any]]) -> None:
    """Write the round manifest of the rounds that are finished; whole or not at all."""
    document = {
        "schema_version": SCHEMA_VERSION,
        "run": context.run_settings.name,
        "count": context.run_settings.rounds.count,
        "rounds": list(records),
    }
    replace_text(context.layout.rounds, json.dumps(document, indent=1, allow_nan=False) + "\n")


def round_record(context: RunContext) -> dict[str, Any]:
    """Lineage and figures of the round that `context` is of, which is complete. Shares are in [0, 1].

    Returns:
        ``models`` (start, reference, reward, costs, promoted policy; digests), ``pairs`` (numbers by source model, of the
        red team, of training in all, questions asked), ``red_team`` (None where no one looked), ``loop`` (prompts, learning
        rates), ``constraints`` (limit, multiplier at start and end), ``agreement``, ``accuracy``, ``calibration``,
        ``certificates``, ``feasible``, ``results`` by model and measure with intervals, ``seconds``. On data also ``wins``,
        policy over SFT; its results, wins and ``feasible`` are by the round's own models. ``feasible`` is None without a
        constraint: nothing was certified.
    """
    judged = context.facts(evaluate.NAME)
    certificates: Mapping[str, Mapping[str, Any]] = judged.get("certificates", {})
    evaluation = json.loads((context.layout.evaluation(context.round_number) / "evaluation.json").read_text())
    on_data = context.settings.data is not None
    return {
        "round": context.round_number,
        "models": _models(context),
        "pairs": _pairs(context) | {"labelled_by": preferences.labelled_by(context)},
        "red_team": _red_team(context),
        "loop": _loop(context),
        "constraints": _constraints(context),
        "agreement": agreement(_votes(context)),
        "accuracy": _accuracy(context),
        "calibration": {name: _calibration(context, name) for name in context.settings.constraints},
        "certificates": {name: dict(certificate) for name, certificate in certificates.items()},
        "feasible": _feasible(context, judged, certificates),
        **(_scored_results(evaluation) if on_data else _gold_results(evaluation)),
        "seconds": _seconds(context),
    }


def _feasible(
    context: RunContext, judged: Mapping[str, Any], certificates: Mapping[str, Mapping[str, Any]]
) -> bool | None:
    if not context.settings.constraints:
        return None
    if context.settings.data is not None:
        return bool(judged["feasible"])
    return all(certificate["feasible"] for certificate in certificates.values())


def agreement(votes: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By question, how far the annotators agree: the raw share of agreeing pairs, and Krippendorff's alpha with its interval.

    Args:
        votes: ``{unit, question, choice, is_safe}`` as the crowd casts them; of a judge, one for each order of showing.
    """
    tables: dict[str, dict[tuple[str, str], list[int]]] = {}
    for vote in votes:
        unit = tables.setdefault(QUESTIONS.get(vote["question"], vote["question"]), {})
        counts = unit.setdefault((vote["unit"], vote["question"]), [0, 0])
        answer = vote["choice"] if vote["choice"] is not None else int(bool(vote["is_safe"]))
        counts[int(answer)] += 1
    return {question: _agreement_of(list(units.values())) for question, units in tables.items()}


def _agreement_of(units: Sequence[Sequence[int]]) -> dict[str, Any]:
    kinds = Counter(tuple(unit) for unit in units)
    counts, weights = np.array(list(kinds), dtype=float), np.array(list(kinds.values()), dtype=float)
    alpha, raw = krippendorff_interval(counts, weights), raw_agreement(counts, weights)
    return {
        "raw": raw if math.isfinite(raw) else None,
        "alpha": None if alpha is None else dict(vars(alpha)),
        "units": len(units),
    }


def _gold_results(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    return {"results": {model: evaluation[model]["seen"] for model in (SFT, POLICY) if model in evaluation}}


def _scored_results(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """On the prompts that were kept for the last judgement, by this round's models: no two rounds share a scale."""
    cells = evaluation["sets"][KEPT]["all"]
    results = {model: cells[model] for model in (SFT, POLICY) if model in cells}
    return {"results": results, "wins": evaluation["wins"][KEPT], "figures": evaluation["figures"]}


def _votes(context: RunContext) -> list[dict[str, Any]]:
    if _from_files(context):
        return []
    path = context.layout.preferences(context.round_number) / "preferences.parquet"
    rows = pq.read_table(path, columns=["pair_id", "votes"]).to_pylist()
    return [{"unit": row["pair_id"], **vote} for row in rows for vote in json.loads(row["votes"])]


def _models(context: RunContext) -> dict[str, Any]:
    layout, number = context.layout, context.round_number
    start = start_policy(context)
    facts = context.facts(selection.NAME)
    return {
        "start": _model(context, policy_name(start_round(context))) | {"digest": model_digest(start)},
        "reference": policy_name(start_round(context)),
        "reward": _digest_of(context, score_models.REWARD),
        "costs": {
            name: _digest_of(context, score_models.cost_stage_name(name)) for name in context.settings.constraints
        },
        "policy": _model(context, policy_name(number))
        | {"digest": model_digest(layout.policy(number)), "promoted_step": facts["promoted_step"]},
        "weight_version": context.facts(ppo.NAME)["weights"]["version"],
    }


def _model(context: RunContext, name: str) -> dict[str, Any]:
    number = 0 if name == policy_name(0) else int(name.removeprefix("round-"))
    return {"name": name, "folder": str(policy_folder(context.layout, number).relative_to(context.layout.root))}


def _digest_of(context: RunContext, stage: str) -> str | None:
    """Of a score model; None where a scorer from outside gives the signal."""
    name = stage_name(stage, context.round_number)
    return context.manifest[name].facts.get("digest") if name in context.manifest else None


def _from_files(context: RunContext) -> bool:
    """Whether this round's labels came with the data."""
    return context.settings.data is not None and context.round_number == 1


def _pairs_of_files(context: RunContext) -> dict[str, Any]:
    """Of the first round on data: the files' rows, as the reward model has them, or else the first cost model."""
    facts = context.facts(data.NAME)
    sets = {name: report for name, report in facts["sets"].items() if name == "reward" or name.startswith("cost-")}
    first: Mapping[str, Any] = next(iter(sets.values()), {"written": 0, "purposes": {}})
    labels: Mapping[str, int] = next(iter(facts["harm-labels"].values()), {"signed": 0, "unsafe": 0})
    return {
        "sampled": int(first["written"]),
        "sources": [{"model": "files", "digest": "", "weight_version": 0, "pairs": int(first["written"])}],
        "red_team": 0,
        "splits": dict(first["purposes"]),
        "training": int(first["purposes"].get("train", 0)),
        "from_earlier_rounds": 0,
        "questions": None,
        "unsafe_share": unsafe_share(labels),
        "better_is_safer": None,
    }


def _pairs(context: RunContext) -> dict[str, Any]:
    if _from_files(context):
        return _pairs_of_files(context)
    layout, number = context.layout, context.round_number
    names = {
        model_digest(policy_folder(layout, earlier_round)): policy_name(earlier_round)
        for earlier_round in reversed(range(number))
    }
    path = layout.preferences(number) / "preferences.parquet"
    rows = pq.read_table(path, columns=["model_digest", "weight_version", "split", "tags"]).to_pylist()
    by_model = Counter((row["model_digest"], row["weight_version"]) for row in rows)
    facts = context.facts(preferences.NAME)
    train = sum(row["split"] == "train" for row in rows)
    return {
        "sampled": len(rows),
        "sources": [
            {"model": names.get(digest, "another run's"), "digest": digest, "weight_version": version, "pairs": count}
            for (digest, version), count in by_model.items()
        ],
        "red_team": sum("red_team" in row["tags"] for row in rows),
        "splits": dict(Counter(row["split"] for row in rows)),
        "training": int(facts.get("training_pairs", train)),
        "from_earlier_rounds": int(facts.get("earlier_pairs", 0)),
        "questions": int(facts["questions_asked"]),
        "unsafe_share": facts.get("unsafe_share"),
        "better_is_safer": facts["better_is_safer"],
    }


def _red_team(context: RunContext) -> dict[str, Any] | None:
    if context.round_number == 1 or not context.settings.rounds.red_team:
        return None
    facts = {name: value for name, value in context.facts(red_team.NAME).items() if name != "warnings"}
    return {"against": policy_name(context.round_number - 1), **facts}


def _loop(context: RunContext) -> dict[str, Any]:
    ppo_settings, facts = context.settings.ppo, context.facts(ppo.NAME)
    lines = _steps(context)
    prompts = prompts_of(context)
    return {
        "steps": facts["steps"],
        "prompts": len(prompts),
        "red_team": sum("red_team" in prompt.tags for prompt in prompts),
        "learning_rates": {
            "actor": ppo_settings.actor_learning_rate,
            "critic": ppo_settings.critic_learning_rate,
            "schedule": ppo_settings.schedule,
            **{
                f"dual/{name}": constraint.dual.learning_rate
                for name, constraint in context.settings.constraints.items()
            },
        },
        "kl": {"coefficient": ppo_settings.kl_coefficient, "end": lines[-1].get("kl") if lines else None},
    }


def _constraints(context: RunContext) -> dict[str, Any]:
    lines, constraints = _steps(context), {}
    for name, constraint in context.settings.constraints.items():
        multipliers = [float(line[f"multiplier/{name}"]) for line in lines]
        measured = [line for line in lines if f"measure/{name}" in line]
        constraints[name] = {
            "measure": constraint.measure,
            "limit": constraint.limit,
            "multiplier_start": constraint.dual.initial,
            "multiplier_end": multipliers[-1] if multipliers else None,
            "multiplier_highest": max(multipliers, default=None),
            "measure_end": measured[-1][f"measure/{name}"] if measured else None,
        }
    return constraints


def _accuracy(context: RunContext) -> dict[str, Any]:
    """On this round's pairs that were kept out of training, with Wilson intervals."""
    stage_names = {"reward": score_models.REWARD}
    stage_names |= {f"cost/{name}": score_models.cost_stage_name(name) for name in context.settings.constraints}
    accuracies: dict[str, Any] = {}
    for name, stage in stage_names.items():
        full = stage_name(stage, context.round_number)
        facts = context.manifest[full].facts if full in context.manifest else {}
        accuracies[name] = {
            key: _share(facts[key], facts[of])
            for key, of in (("pair_accuracy", "ranked_holdout_pairs"), ("sign_accuracy", "signed_holdout_responses"))
            if key in facts and facts.get(of)
        }
    return accuracies


def _calibration(context: RunContext, name: str) -> dict[str, Any]:
    """This round's fit on labels of the policy that it began with, and how far the fit before it had moved there."""
    stage = stage_name(score_models.cost_stage_name(name), context.round_number)
    facts = context.manifest[stage].facts if stage in context.manifest else {}
    present_fit = {quantity: facts.get(f"calibration_{quantity}") for quantity in ("slope", "intercept", "error")}
    before = None
    if context.round_number > 1:
        before = context.in_round(context.round_number - 1).facts(selection.NAME)["drift"].get(name)
    after = context.facts(selection.NAME)["drift"].get(name)
    return {**present_fit, "drift_of_the_fit_before": before, "drift_on_the_promoted_policy": after}


def _seconds(context: RunContext) -> float:
    """Of the round's own stages; what all rounds share counts to the first."""
    stage_names = [name for name in context.manifest.names() if split_name(name)[1] == context.round_number]
    return round(sum(context.manifest[name].seconds for name in stage_names), 1)


def _steps(context: RunContext) -> list[dict[str, Any]]:
    text = context.layout.metrics_of(context.round_number).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _share(value: float, n: float) -> dict[str, Any]:
    return dict(vars(wilson(round(value * int(n)), int(n))))
