"""What a model answers when it is judged: one sample per prompt, or of `best_of_k` the best of k.

Best-of-k (Nakano et al. 2021, arXiv 2112.09332, there by the reward alone) trains nothing: the SFT policy answers k
times, and the best reward among the answers that keep every limit is given. See docs/algorithms/best_of_k.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from scipy.special import expit

from actors.crowd.tasks import pick_samples
from actors.rollout.collected import ScoredRow
from cluster.inputs.sampler import Sampler, by_id
from cluster.run_folder.round_names import id_prefix
from cluster.runs.context import RunContext
from cluster.runs.loop.constraints import in_subset
from cluster.runs.signals import calibration_of, signal_sources
from configs.schema.signals import ConstraintSettings
from learner.records import Prompt, SamplingSettings
from learner.statistics.calibration import CalibrationDocument

BEST_OF_K, POLICY = "best_of_k", "policy"

WAVE_SAMPLES = 2048
"""Samples that are drawn and scored before the chosen ones are picked and the others forgotten: enough to keep the
generators' batches full, few enough that k times the prompts are never in memory together."""

Calibrations = Mapping[str, CalibrationDocument | None]


class Answers(NamedTuple):
    """One model's answers; their tokens stay in the object store."""

    chunks: list[Any]
    """ObjectRefs of RolloutChunks."""
    keep: frozenset[str] | None = None
    """Requests whose samples count; None is all of them."""
    missing: int = 0
    """Prompts that have no answer."""


@dataclass(frozen=True)
class Candidate:
    """One of k answers to a prompt."""

    request_id: str
    reward: float
    excess: tuple[float, ...] = ()
    """Per constraint that covers the prompt, by how much the answer is above the limit; 0 or less keeps it."""

    @property
    def worst_excess(self) -> float:
        """Of all constraints; 0 or less without any."""
        return max(self.excess, default=0.0)


def draw_answers(
    context: RunContext, model: str, model_path: Path, prompts: Sequence[Prompt], *, stage: str
) -> Answers:
    """Have a model answer every prompt.

    Args:
        model: its name in the samples; of `best_of_k` the model ``policy`` answers `best_of_k.k` times.
        model_path: Hugging Face folder that the generators load; of `best_of_k` the SFT policy.
        stage: part of every sample's seed.
    """
    settings = context.settings
    sampler = context.sampler(f"{stage}-{model}")
    sampling = SamplingSettings(settings.evaluation.temperature, settings.ppo.max_response_tokens)
    pool = context.engines.rollout_pool(model_path, context.tokenizer_path)
    if settings.algorithm == BEST_OF_K and model == POLICY:
        return _best_answers(context, model, prompts, sampler, sampling)
    id_stem = f"{id_prefix(context.round_number)}{model}"
    requests = [sampler.request(prompt, f"{id_stem}/{prompt.prompt_id}", sampling) for prompt in prompts]
    rows = pool.generate_only(requests).rows
    return Answers(list(dict.fromkeys(row.chunk for row in rows)), missing=len(prompts) - len(rows))


def choose_best(candidates: Sequence[Candidate]) -> Candidate:
    """The highest reward among the answers that keep every limit; with none, the least worst excess.

    Equal rewards are decided by the worst excess, and then the first one wins.

    Raises:
        ValueError: no candidate.
    """
    feasible = [candidate for candidate in candidates if candidate.worst_excess <= 0.0]
    if feasible:
        return max(feasible, key=lambda candidate: (candidate.reward, -candidate.worst_excess))
    return min(candidates, key=lambda candidate: (candidate.worst_excess, -candidate.reward))


def excess_of(cost: float, constraint: ConstraintSettings, calibration: CalibrationDocument | None) -> float:
    """By how much one answer is above what a constraint allows, divided by its scale; 0 or less keeps the limit.

    `rate` bounds the calibrated probability of unsafe (before a calibration exists, sigma of the cost) and `mean` the
    cost itself. The other measures speak of a whole distribution, so an answer must be on the safe side of the cost's zero.
    """
    if constraint.measure == "rate":
        value = float(expit(cost) if calibration is None else calibration.probability(cost))
        above = value - constraint.limit
    elif constraint.measure == "mean":
        above = cost - constraint.limit
    else:
        above = cost
    return above / constraint.effective_scale


def _best_answers(
    context: RunContext, model: str, prompts: Sequence[Prompt], sampler: Sampler, sampling: SamplingSettings
) -> Answers:
    """k answers per prompt through the scorers, wave by wave; of each wave only the chosen samples are kept."""
    k, calibrations = context.settings.best_of_k.k, _load_scorers(context)
    pool = context.engines.scoring_pool()
    chunks: list[Any] = []
    chosen: list[Candidate] = []
    size = max(1, WAVE_SAMPLES // k)
    for start in range(0, len(prompts), size):
        wave = prompts[start : start + size]
        requests = [
            sampler.request(prompt, f"{model}/{prompt.prompt_id}/{index}", sampling)
            for prompt in wave
            for index in range(k)
        ]
        rows = pool.collect(requests).scored
        best = _choose_all(context, rows, by_id(list(wave)), calibrations)
        picked = {candidate.request_id for candidate in best}
        wave_chunks = dict.fromkeys(row.chunk for row in rows if row.rollout.request_id in picked)
        if wave_chunks:
            chunks.append(pick_samples.remote(frozenset(picked), *wave_chunks))
        chosen += best
    unmet = sum(candidate.worst_excess > 0.0 for candidate in chosen)
    if unmet:
        context.warn(
            f"{unmet} of {len(prompts)} prompts have none among {k} answers that the cost models call safe enough; the "
            "safest one is given"
        )
    return Answers(chunks, frozenset(candidate.request_id for candidate in chosen), len(prompts) - len(chosen))


def _choose_all(
    context: RunContext, rows: Iterable[ScoredRow], prompts: Mapping[str, Prompt], calibrations: Calibrations
) -> list[Candidate]:
    """The best answer of every prompt that has any left; rows that were set aside are not among `rows`."""
    maximises, constraints = context.settings.objective.signal != "none", context.settings.constraints
    by_prompt: dict[str, list[Candidate]] = {}
    for row in rows:
        prompt = prompts[row.rollout.prompt_id]
        excess = tuple(
            excess_of(row.sample.costs[name], constraint, calibrations[name])
            for name, constraint in constraints.items()
            if in_subset(prompt, constraint)
        )
        reward = row.sample.reward if maximises else 0.0
        by_prompt.setdefault(prompt.prompt_id, []).append(Candidate(row.rollout.request_id, reward, excess))
    return [choose_best(candidates) for candidates in by_prompt.values()]


def _load_scorers(context: RunContext) -> Calibrations:
    """Hold who scores reward and costs; returns how each cost becomes a probability."""
    sources = signal_sources(context)
    context.engines.end_supervised()
    context.engines.load_scorers(
        sources.reward, sources.costs, None, context.settings.evaluation.temperature, tokenizer=context.tokenizer_path
    )
    return {name: calibration_of(context, name) for name in context.settings.constraints}
