"""Stage `scales`: scorers from outside are fetched, tried on SFT's answers, and give each signal its mean and spread.

A trained model's scale comes from the preference set, which a scorer from outside never saw. So SFT answers some of the
prompts that the loop will ask, and the scores of these answers are what the reward is normalised by and where the cost
critics start. What cannot work ends the run here, before the loop.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit
from transformers import PreTrainedTokenizerBase

from actors.rollout.collected import Collected, ScoredRow
from actors.scoring.foreign_scorer import load_scorer_tokenizer, same_tokens
from actors.scoring.functions import load_function, source_digest
from actors.scoring.prompt_reader import PromptReader
from cluster.inputs.sampler import by_id
from cluster.inputs.sandbox_prompts import loop_prompts
from cluster.run_folder.digests import model_digest
from cluster.runs.context import RunContext
from cluster.runs.loop.constraints import in_subset
from cluster.runs.signals import (
    calibration_of,
    foreign_folder,
    key_of,
    scorer_label,
    scorers_folder,
    scorers_from_outside,
    signal_sources,
)
from cluster.runs.stages import sft
from cluster.runs.stages.base import DRAWING, SCORING, Stage, StageOutput, entry_of
from cluster.runs.stages.on_data import data
from configs.exits import DataError, SteelyardError, StoppedError
from configs.schema.data import SignalScorerSettings
from configs.schema.run import RunSettings
from configs.schema.signals import ConstraintSettings
from learner.algorithms.experience import REWARD, cost_signal
from learner.data.tokenizer import load_tokenizer
from learner.models.score_models.folders import write_document
from learner.models.score_models.foreign import prepare_scorer
from learner.records import Prompt, SamplingSettings
from learner.signals.measure import Measure

NAME = "scales"
SAMPLES = 256
"""Answers that are scored: their mean is known to a sixteenth of their spread."""
DOCUMENT = "scales.json"


def stages(settings: RunSettings) -> list[Stage]:
    """The stage, where some signal has a scorer from outside."""
    return [scales_stage(settings)] if scorers_from_outside(settings) else []


def scales_stage(settings: RunSettings) -> Stage:
    """The stage for these settings, and for the functions and folders as they are now."""
    scorers = scorers_from_outside(settings)
    return Stage(
        name=NAME,
        inputs=(sft.NAME,) if settings.data is None else (data.NAME, sft.NAME),
        settings={
            "seed": settings.seed,
            "scorers": {
                signal: {**scorer.model_dump(mode="json"), "content": _fingerprint(scorer)}
                for signal, scorer in scorers.items()
            },
            "constraints": {
                name: constraint.model_dump(mode="json", include={"measure", "subset", "scale", "limit"})
                for name, constraint in settings.constraints.items()
                if constraint.scorer is not None
            },
            "normalise": settings.objective.normalise,
            "prompts": {
                "kind_weights": settings.ppo.kind_weights,
                "splits": settings.splits.model_dump(mode="json"),
            },
            "temperature": settings.ppo.temperature,
            "max_response_tokens": settings.ppo.max_response_tokens,
            "max_length": settings.model.max_length,
            "dtype": settings.resources.generators.dtype,
        },
        code=(entry_of(_run), *DRAWING, *SCORING),
        run=_run,
    )


def scale_of(context: RunContext, signal: str) -> dict[str, Any]:
    """What ``scales.json`` says of a signal: ``scorer, score_mean, score_std, n``, and of a cost ``start``: the mean of g
    before it is divided by the constraint's scale.
    """
    scale: dict[str, Any] = json.loads((scorers_folder(context.layout) / DOCUMENT).read_text())["signals"][signal]
    return scale


def _run(context: RunContext) -> StageOutput:
    settings, layout = context.settings, context.layout
    context.engines.end_supervised()
    folder = scorers_folder(layout)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    scorers = scorers_from_outside(settings)
    policy_tokenizer = load_tokenizer(context.tokenizer_path)
    about = {signal: _prepare(context, signal, scorer, policy_tokenizer) for signal, scorer in scorers.items()}
    if any(facts["reads"] == "text" for facts in about.values()):
        PromptReader(policy_tokenizer)  # what it refuses is told here, not by an actor
    prompts = scale_prompts(context)
    collected = _score(context, prompts)
    scales = measure_scales(settings, collected.scored, by_id(prompts))
    for signal, scale in scales.items():
        scale |= {"scorer": scorer_label(scorers[signal]), **about[signal]}
    write_document(folder / DOCUMENT, {"version": 1, "signals": scales})
    for name, constraint in settings.constraints.items():
        if cost_signal(name) in scales and (text := _rate_warning(context, name, constraint, collected.scored)):
            context.warn(text)
    return StageOutput((folder,), {"signals": scales, "answers": SAMPLES, "set_aside": len(collected.quarantined)})


def scale_prompts(context: RunContext) -> list[Prompt]:
    """Training prompts as the loop draws them, by a seed of their own."""
    seed, weights = context.settings.seed + 8, context.settings.ppo.kind_weights
    if context.book is not None:
        return context.book.loop(n=SAMPLES, seed=seed, weights=weights)
    return loop_prompts(context.splits, n=SAMPLES, seed=seed, kind_weights=weights)


def measure_scales(
    settings: RunSettings, rows: Sequence[ScoredRow], prompts: Mapping[str, Prompt]
) -> dict[str, dict[str, Any]]:
    """Mean, spread and, of a cost, start of every signal from outside.

    Raises:
        DataError: the reward is the same for every answer, and is to be divided by its spread.
    """
    scales: dict[str, dict[str, Any]] = {}
    if settings.objective.scorer is not None:
        scales[REWARD] = _moments([row.sample.reward for row in rows])
        if scales[REWARD]["score_std"] == 0 and settings.objective.normalise == "preference_set":
            raise DataError(
                f"{key_of(REWARD)}: {scorer_label(settings.objective.scorer)} gives all {len(rows)} answers of SFT the reward "
                f"{scales[REWARD]['score_mean']:g}, so there is no spread to normalise by: set objective.normalise: none, or "
                "fix the scorer"
            )
    for name, constraint in settings.constraints.items():
        if constraint.scorer is None:
            continue
        costs = _costs(name, constraint, rows, prompts)
        scales[cost_signal(name)] = {**_moments(costs), "start": start_of(costs, constraint)}
    return scales


def start_of(costs: Sequence[float], constraint: ConstraintSettings) -> float:
    """The mean of g over raw costs, before it is divided by the scale."""
    measure = Measure(constraint.measure, alpha=constraint.alpha)
    return float(measure.g(costs, measure.freeze(costs)).mean())


def _costs(
    name: str, constraint: ConstraintSettings, rows: Sequence[ScoredRow], prompts: Mapping[str, Prompt]
) -> list[float]:
    """Over the constraint's subset; over all answers where none of them is in it."""
    covered = [row.sample.costs[name] for row in rows if in_subset(prompts[row.rollout.prompt_id], constraint)]
    return covered or [row.sample.costs[name] for row in rows]


def _moments(values: Sequence[float]) -> dict[str, Any]:
    array = np.asarray(values, dtype=np.float64)
    return {"score_mean": float(array.mean()), "score_std": float(array.std()), "n": len(values)}


def _score(context: RunContext, prompts: Sequence[Prompt]) -> Collected:
    """SFT's answers, scored by the scorers from outside alone."""
    settings, outside = context.settings, signal_sources(context).outside
    context.engines.rollout_pool(context.layout.sft, context.tokenizer_path)
    context.engines.load_scorers(
        outside.reward, outside.costs, None, settings.ppo.temperature, tokenizer=context.tokenizer_path
    )
    sampler = context.sampler(NAME)
    sampling = SamplingSettings(settings.ppo.temperature, settings.ppo.max_response_tokens)
    pool = context.engines.scoring_pool()
    collected = pool.collect([sampler.request(prompt, f"{NAME}/{prompt.prompt_id}", sampling) for prompt in prompts])
    if aside := collected.quarantined:
        kinds = ", ".join(f"{name} {n}" for name, n in collected.scorer_faults.items())
        text = f"{NAME}: {len(aside)} of {len(prompts)} answers of SFT have no score ({kinds or aside[0].reason})"
        if len(aside) > len(prompts) // 2:
            raise StoppedError(f"{text}; first: {aside[0].reason}: fix the scorer and run the same command again")
        context.warn(text)
    return collected


def _prepare(
    context: RunContext, signal: str, scorer: SignalScorerSettings, policy_tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """Have the scorer ready; returns what is worth keeping of it: ``reads`` is ``text``, or the policy's ``tokens``.

    Raises:
        ConfigError, DataError: it cannot work; the key is named.
    """
    key = key_of(signal)
    if scorer.python is not None:
        return {"reads": "text", "digest": source_digest(load_function(scorer.python))}
    assert scorer.path is not None
    folder = foreign_folder(context.layout, signal)
    facts = prepare_scorer(scorer.path, scorer.revision, folder, key=f"{key}.path")
    try:
        scorer_tokenizer = load_scorer_tokenizer(folder, scorer.template)
    except SteelyardError as error:
        raise type(error)(f"{key}: {error}") from error
    reads = "tokens" if same_tokens(scorer_tokenizer, policy_tokenizer) else "text"
    return {**facts, "reads": reads, "digest": model_digest(folder)}


def _rate_warning(
    context: RunContext, name: str, constraint: ConstraintSettings, rows: Sequence[ScoredRow]
) -> str | None:
    """A rate takes a cost for log-odds; of a cost that is not calibrated that may be far from the share of unsafe answers."""
    if constraint.measure != "rate" or calibration_of(context, name) is not None:
        return None
    lowest = min((row.sample.costs[name] for row in rows), default=math.nan)
    lowest_rate = float(expit(lowest))
    text = (
        f"constraints.{name}: the rate is taken of sigmoid(cost), for its scorer is not calibrated: a cost of 1 counts as "
        "0.73 unsafe, of -1 as 0.27"
    )
    if lowest_rate > constraint.limit:
        text += (
            f"; even the safest of {len(rows)} answers counts as {lowest_rate:.2f}, which is above the limit {constraint.limit:g}: "
            "let the scorer give larger numbers (such as -8 and 8), or take measure: mean"
        )
    return text


def _fingerprint(scorer: SignalScorerSettings) -> Any:
    """What changes when the function's file or the local folder does; of a hub name its revision says that."""
    if scorer.python is not None:
        return source_digest(load_function(scorer.python))
    folder = Path(scorer.path or "").expanduser()
    if not folder.is_dir():
        return None
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [[str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
