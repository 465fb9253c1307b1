"""One update on one rank, top to bottom; ``docs/algorithms/`` numbers each algorithm's details.

1. With the weights at the start of this optimiser step: proximal log-probs and values of every sample.
2. Per signal: the terminal score; from it, the algorithm's advantages (``learner/algorithms/estimators/``).
3. The advantages are combined into the one that the policy learns from.
4. Epochs of minibatches: clipped surrogate for the actor (with PTX), clipped squared error for the critics; of an
   algorithm without critics, a KL loss in place of the KL penalty.

Invariant: every number here but floating-point rounding is the same for any number of ranks, order of rows and size of
micro-batches; denominators count tokens or rows over all ranks. Nothing moves when anything is not finite.
Shapes: ``B`` rows of this rank, ``R`` response tokens, ``H`` value heads. Log-probs in nats.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from configs.schema.ppo import PpoSettings
from configs.schema.run import GROUP_ALGORITHMS
from learner.algorithms.estimators import gdpo, grpo_lag, ppo_lag, rvpo
from learner.algorithms.estimators.base import Estimator, Scored
from learner.algorithms.experience import (
    REWARD,
    BadBatch,
    Samples,
    cost_signal,
    micro_batch_count,
    micro_batches,
    minibatch_rows,
    model_inputs,
    response_mask,
    total_lengths,
)
from learner.algorithms.finite_checks import require_finite, require_usable_gradients
from learner.algorithms.losses import critic_loss, kl_loss, policy_loss, truncated_importance_weights
from learner.algorithms.policy_batch import Experience
from learner.algorithms.ptx import PtxData
from learner.algorithms.update_metrics import Tally, describe_experience
from learner.engine.collective import Ranks
from learner.engine.deepspeed_engine import GREATEST_GRADIENT, TrainEngine, learning_rate
from learner.records import SignalTerms
from learner.signals.measure import Measure

ESTIMATORS: Mapping[str, Estimator] = {"ppo_lag": ppo_lag, "grpo_lag": grpo_lag, "gdpo": gdpo, "rvpo": rvpo}


@dataclass(frozen=True)
class Critic:
    """One critic engine and the signals its value heads predict, in the heads' order."""

    engine: TrainEngine
    signals: tuple[str, ...]


@dataclass(frozen=True)
class PolicyLearner:
    """What one rank updates, and by which settings."""

    actor: TrainEngine
    """Forward: (input_ids, prompt_lengths, response_lengths, temperature) → log-probs ``[B, R]``."""
    critics: tuple[Critic, ...]
    """Forward: (input_ids, prompt_lengths, response_lengths) → values ``[B, R, H]``; none for a group algorithm."""
    ranks: Ranks
    settings: PpoSettings
    measures: Mapping[str, Measure]
    """Per constraint: g and its scale."""
    algorithm: str = "ppo_lag"
    reward_mean: float = 0.0
    reward_std: float = 1.0
    """The reward that enters its stream is (reward - mean) / std."""
    maximises: bool = True
    """False: no objective; the terminal reward is 0."""
    ptx: PtxData | None = None
    seed: int = 0
    tokens_per_micro_batch: int = 1024


@dataclass(frozen=True)
class PolicyUpdate:
    """What one update leaves behind besides new weights."""

    experience: Experience
    metrics: Mapping[str, float]
    """Over all ranks; the same on each."""
    phase_seconds: Mapping[str, float]
    notes: Mapping[str, str]
    """See ``StepResult.notes``."""


def update_policy(learner: PolicyLearner, samples: Samples, terms: SignalTerms, step: int) -> PolicyUpdate:
    """Learn once from one batch; every rank calls it with its own samples.

    Args:
        step: optimiser step, from 1: seeds the shuffle and places the learning rate.

    Raises:
        NonFiniteUpdate: a log-prob, value, loss or gradient is not finite; names the requests.
    """
    start = time.perf_counter()
    experience = make_experience(learner, samples, terms)
    experience_end = time.perf_counter()
    tally = Tally(learner.ranks)
    describe_experience(tally, experience)
    for number, minibatch in enumerate(plan_minibatches(learner, experience, step)):
        update_on_minibatch(learner, at_minibatch(experience, terms, number), minibatch, step, tally)
    metrics = {**tally.metrics(), **experience.estimate.metrics}
    notes = tally.notes()
    update_end = time.perf_counter()
    return PolicyUpdate(
        experience, metrics, {"experience": experience_end - start, "update": update_end - experience_end}, notes
    )


# --- 1 to 3: experience ----------------------------------------------------------------------------------------------


@torch.no_grad()
def make_experience(learner: PolicyLearner, samples: Samples, terms: SignalTerms) -> Experience:
    """Log-probs and values at the present weights, then the algorithm's advantages.

    Raises:
        BadBatch: no rank has a token to learn from.
        NonFiniteUpdate: a log-prob, value, score or advantage is not finite; names the requests.
    """
    if not float(learner.ranks.sum(samples.mask.sum())):
        raise BadBatch("no response of the batch has a token that is learned from: look at the samples in rollouts/")
    proximal, values = evaluate(learner, samples)
    scored = Scored(
        request_ids=samples.request_ids,
        prompt_ids=[meta.prompt_id for meta in samples.meta],
        terminal=terminal_scores(learner, samples, terms),
        subset=samples.subset,
        mask=samples.mask,
        proximal_logprobs=proximal,
        reference_logprobs=samples.reference_logprobs,
        values=values,
        maximises=learner.maximises,
    )
    finite = torch.isfinite(torch.stack(list(scored.terminal.values()))).all(dim=0)
    require_finite(learner.ranks, samples, np.flatnonzero(~finite.numpy()), "terminal score")
    estimate = ESTIMATORS[learner.algorithm].estimate(scored, learner.settings, learner.ranks)
    advantages = estimate.combine(terms.multipliers)
    finite = torch.isfinite(advantages).all(dim=1)
    require_finite(learner.ranks, samples, np.flatnonzero(~finite.numpy()), "advantage")
    cap = learner.settings.importance_cap
    return Experience(
        samples=samples,
        mask=samples.mask,
        proximal_logprobs=proximal,
        importance_weights=truncated_importance_weights(proximal, samples.behaviour_logprobs, cap),
        values=values,
        estimate=estimate,
        advantages=advantages,
    )


def terminal_scores(learner: PolicyLearner, samples: Samples, terms: SignalTerms) -> dict[str, Tensor]:
    """Per signal float32 ``[B]``: the normalised reward (0 with no objective), and g of each constraint's raw cost."""
    reward = (samples.reward - learner.reward_mean) / learner.reward_std
    scores = {REWARD: reward if learner.maximises else torch.zeros_like(reward)}
    for name, costs in samples.costs.items():
        g = learner.measures[name].g(costs.numpy(), terms.measure_state.get(name, {}))
        scores[cost_signal(name)] = torch.from_numpy(g).float()
    return scores


@torch.no_grad()
def at_minibatch(experience: Experience, terms: SignalTerms, number: int) -> Experience:
    """The experience with the multipliers of the minibatch of this number, where every minibatch has its own."""
    if not terms.minibatch_multipliers:
        return experience
    multipliers = terms.minibatch_multipliers[min(number, len(terms.minibatch_multipliers) - 1)]
    return replace(experience, advantages=experience.estimate.combine(multipliers))


def evaluate(learner: PolicyLearner, samples: Samples) -> tuple[Tensor, dict[str, Tensor]]:
    """Proximal log-probs and values per signal ``[B, R]``, float32 on the host, zero outside the mask."""
    lengths = total_lengths(samples)
    everything = np.arange(len(lengths))
    rank_batches = micro_batch_count(everything, lengths, learner.tokens_per_micro_batch)
    count = int(learner.ranks.max(torch.tensor(float(rank_batches))))
    logprobs = torch.zeros_like(samples.behaviour_logprobs)
    values = {signal: torch.zeros_like(logprobs) for critic in learner.critics for signal in critic.signals}
    for rows in micro_batches(everything, lengths, count):
        inputs = model_inputs(samples, rows, learner.actor.device)
        valid = response_mask(samples, rows)
        width = valid.shape[1]
        new = learner.actor.forward(*inputs, learner.settings.temperature).float().cpu()
        logprobs[rows, :width] = torch.where(valid, new, 0.0)[: len(rows)]
        for critic in learner.critics:
            heads = critic.engine.forward(*inputs).float().cpu()
            for head, signal in enumerate(critic.signals):
                values[signal][rows, :width] = torch.where(valid, heads[..., head], 0.0)[: len(rows)]
    finite = torch.isfinite(torch.stack([logprobs, *values.values()])).all(dim=0).all(dim=1)
    require_finite(learner.ranks, samples, np.flatnonzero(~finite.numpy()), "proximal log-prob or value")
    return logprobs, values


# --- 4: minibatches --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Minibatch:
    """One gradient update's rows on this rank, and what its losses are divided by."""

    epoch: int
    index: int
    micro_batches: Sequence[np.ndarray]
    """Row indices; equally many micro-batches on every rank."""
    denominators: Mapping[str, float]
    """Valid tokens (or rows, with ``row_mean``) over all ranks that each signal's loss averages over."""


def plan_minibatches(learner: PolicyLearner, experience: Experience, step: int) -> list[Minibatch]:
    """All epochs' minibatches, with denominators agreed among the ranks."""
    settings, samples = learner.settings, experience.samples
    lengths = total_lengths(samples)
    parts = [
        (epoch, index, rows)
        for epoch in range(settings.epochs)
        for index, rows in enumerate(
            minibatch_rows(
                samples.positions,
                samples.total_rows,
                minibatch_size=settings.minibatch_size,
                seed=learner.seed,
                step=step,
                epoch=epoch,
            )
        )
    ]
    signals = [REWARD, *map(cost_signal, samples.costs)]
    members = torch.stack([torch.ones(len(lengths), dtype=torch.bool), *samples.subset.values()]).double()
    tokens = samples.mask.sum(dim=1).double()
    weight = tokens if settings.loss == "token_mean" else (tokens > 0).double()
    sums = learner.ranks.sum(torch.stack([(members * weight)[:, rows].sum(dim=1) for _, _, rows in parts]))
    counts = learner.ranks.max(
        torch.tensor([float(micro_batch_count(rows, lengths, learner.tokens_per_micro_batch)) for _, _, rows in parts])
    )
    return [
        Minibatch(
            epoch,
            index,
            micro_batches(rows, lengths, int(counts[i])),
            {signal: max(1.0, float(sums[i, column])) for column, signal in enumerate(signals)},
        )
        for i, (epoch, index, rows) in enumerate(parts)
    ]


def update_on_minibatch(
    learner: PolicyLearner, experience: Experience, minibatch: Minibatch, step: int, tally: Tally
) -> None:
    """One gradient update of the actor and of every critic; none of them moves unless every gradient can be used."""
    settings, ranks = learner.settings, learner.ranks
    broken = _add_gradients(learner, experience, minibatch, tally)
    require_finite(ranks, experience.samples, np.asarray(broken, dtype=np.int64), "log-prob, value, loss or gradient")
    if learner.ptx is not None:
        for loss_share in _ptx_losses(learner, step, minibatch):
            learner.actor.backward(settings.ptx_coefficient * loss_share)
            tally.ptx(loss_share)
    names = ["actor", *(f"critic of {', '.join(critic.signals)}" for critic in learner.critics)]
    require_usable_gradients(ranks, dict(zip(names, _gradient_bounds(learner), strict=True)))

    rates = {"warmup_steps": settings.warmup_steps, "total_steps": settings.steps}
    actor_rate = learning_rate(step - 1, base=settings.actor_learning_rate, schedule=settings.schedule, **rates)
    critic_rate = learning_rate(step - 1, base=settings.critic_learning_rate, schedule=settings.schedule, **rates)
    actor_norm = learner.actor.step(actor_rate)
    tally.updated(actor_norm, [critic.engine.step(critic_rate) for critic in learner.critics])


def _add_gradients(learner: PolicyLearner, experience: Experience, minibatch: Minibatch, tally: Tally) -> list[int]:
    """Add the gradients of one minibatch; returns this rank's rows that gave something not finite."""
    settings = learner.settings
    last_epoch = minibatch.epoch == settings.epochs - 1
    denominator = _denominator(settings, minibatch.denominators[REWARD])
    broken: list[int] = []
    for rows in minibatch.micro_batches:
        batch = _rows_of(experience, rows, learner.actor.device)
        current = learner.actor.forward(*batch.inputs, settings.temperature)
        loss = policy_loss(
            current,
            batch.proximal_logprobs,
            batch.advantages,
            batch.mask,
            clip_ratio=settings.clip_ratio,
            importance_weights=batch.importance_weights,
            **denominator,
        )
        ratio = torch.where(batch.mask, torch.exp(current.detach() - batch.proximal_logprobs), 1.0)
        finite = torch.isfinite(ratio).all(dim=1)
        tally.policy(loss, ratio[batch.mask], settings.clip_ratio, keep_ratios=last_epoch)
        if learner.algorithm in GROUP_ALGORITHMS:
            divergence = kl_loss(current, batch.reference_logprobs, batch.mask, **denominator)
            tally.divergence(divergence)
            loss = loss + settings.kl_coefficient * divergence
        learner.actor.backward(loss)
        for critic in learner.critics:
            finite &= _critic_backward(critic, batch, settings, minibatch.denominators, tally)
        broken += rows[~finite.cpu().numpy()[: len(rows)]].tolist()
        if not broken and not (torch.isfinite(loss.detach()) and (_gradient_bounds(learner) < GREATEST_GRADIENT).all()):
            broken += rows.tolist()  # finite parts that overflowed in a loss or a gradient: any of them
    return broken


def _gradient_bounds(learner: PolicyLearner) -> Tensor:
    """Of this rank, ``[1 + critics]``."""
    engines = [learner.actor, *(critic.engine for critic in learner.critics)]
    return torch.tensor([engine.gradient_bound() for engine in engines], dtype=torch.float64)


@dataclass(frozen=True)
class _Rows:
    """A micro-batch of an Experience on the engine's device; no rows become one that the mask takes out."""

    inputs: tuple[Tensor, Tensor, Tensor]
    mask: Tensor
    subset: Mapping[str, Tensor]
    proximal_logprobs: Tensor
    reference_logprobs: Tensor
    importance_weights: Tensor
    advantages: Tensor
    values: Mapping[str, Tensor]
    returns: Mapping[str, Tensor]


def _rows_of(experience: Experience, rows: np.ndarray, device: torch.device) -> _Rows:
    samples = experience.samples
    mask = response_mask(samples, rows)

    def cut(table: Tensor) -> Tensor:
        return (table[rows, : mask.shape[1]] if len(rows) else torch.zeros(mask.shape)).to(device)

    return _Rows(
        inputs=model_inputs(samples, rows, device),
        mask=mask.to(device),
        subset={
            cost_signal(name): (member[rows] if len(rows) else torch.zeros(1, dtype=torch.bool)).to(device)
            for name, member in samples.subset.items()
        },
        proximal_logprobs=cut(experience.proximal_logprobs),
        reference_logprobs=cut(samples.reference_logprobs),
        importance_weights=cut(experience.importance_weights),
        advantages=cut(experience.advantages),
        values={signal: cut(table) for signal, table in experience.values.items()},
        returns={signal: cut(table) for signal, table in experience.estimate.returns.items()},
    )


def _critic_backward(
    critic: Critic, batch: _Rows, settings: PpoSettings, denominators: Mapping[str, float], tally: Tally
) -> Tensor:
    """Add the gradient of one critic's heads; returns bool ``[B]``, false where a value is not finite."""
    heads = critic.engine.forward(*batch.inputs).float()
    losses: dict[str, Tensor] = {}
    for head, signal in enumerate(critic.signals):
        mask = batch.mask & batch.subset[signal][:, None] if signal in batch.subset else batch.mask
        losses[signal] = critic_loss(
            heads[..., head],
            batch.values[signal],
            batch.returns[signal],
            mask,
            clip_value=settings.clip_value,
            **_denominator(settings, denominators[signal]),
        )
        tally.critic(signal, losses[signal])
    total = torch.stack(list(losses.values())).sum()
    critic.engine.backward(total)
    return torch.isfinite(torch.where(batch.mask[..., None], heads.detach(), 0.0)).all(dim=-1).all(dim=-1)


def _denominator(settings: PpoSettings, count: float) -> dict[str, float]:
    return {"token_count": count} if settings.loss == "token_mean" else {"row_count": count}


def _ptx_losses(learner: PolicyLearner, step: int, minibatch: Minibatch) -> Iterator[Tensor]:
    """This rank's shares of the supervised loss, nats per token over all ranks' rows; the norm tells a broken one."""
    assert learner.ptx is not None
    seed = [learner.seed, step, minibatch.epoch, minibatch.index]
    for batch in learner.ptx.batches(
        seed,
        rows=learner.settings.ptx_batch_size,
        rank=learner.ranks.rank,
        ranks=learner.ranks.size,
        tokens_per_micro_batch=learner.tokens_per_micro_batch,
        device=learner.actor.device,
    ):
        logprobs = learner.actor.forward(*batch.inputs, 1.0)
        yield -(torch.where(batch.mask, logprobs, 0.0)).sum() / batch.token_count
