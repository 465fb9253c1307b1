"""One PPO-Lag update on one rank, top to bottom; ``docs/algorithms/ppo_lag.md`` numbers its details.

1. With the weights at the start of this optimiser step: proximal log-probs and values of every sample.
2. Per signal: shape the stream (KL penalty and terminal score), GAE, returns.
3. Combine the advantages by the multipliers; centre them over all valid tokens of all ranks.
4. Epochs of minibatches: clipped surrogate for the actor (with PTX), clipped squared error for the critics.

Invariant: every number here but floating-point rounding is the same for any number of ranks, order of rows and size of
micro-batches; denominators count tokens or rows over all ranks. Nothing moves when anything is not finite.
Shapes: ``B`` rows of this rank, ``R`` response tokens, ``H`` value heads. Log-probs in nats.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from configs.schema.ppo import PpoSettings
from learner.advantages import (
    advantage_moments,
    generalised_advantages,
    mean_and_std,
    shape_costs,
    shape_rewards,
    whiten,
)
from learner.collective import Ranks
from learner.engine import NonFiniteUpdate, TrainEngine, learning_rate
from learner.experience import (
    REWARD,
    Samples,
    cost_signal,
    micro_batch_count,
    micro_batches,
    minibatch_rows,
    model_inputs,
    response_mask,
    total_lengths,
)
from learner.losses import critic_loss, policy_loss, truncated_importance_weights
from learner.ptx import PtxData
from learner.records import SignalTerms
from learner.signals.combine import combine_advantages
from learner.signals.measure import Measure
from learner.tally import Tally, describe_experience


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
    """Forward: (input_ids, prompt_lengths, response_lengths) → values ``[B, R, H]``."""
    ranks: Ranks
    settings: PpoSettings
    measures: Mapping[str, Measure]
    """Per constraint: g and its scale."""
    reward_mean: float = 0.0
    reward_std: float = 1.0
    """The reward that enters its stream is (reward - mean) / std."""
    maximises: bool = True
    """False: no objective; the reward's stream carries the KL penalty alone."""
    ptx: PtxData | None = None
    seed: int = 0
    tokens_per_micro_batch: int = 1024


@dataclass(frozen=True)
class Experience:
    """One rank's samples with everything the losses need; all ``[B, R]``, zero outside the mask."""

    samples: Samples
    mask: Tensor
    proximal_logprobs: Tensor
    importance_weights: Tensor
    values: Mapping[str, Tensor]
    signal_advantages: Mapping[str, Tensor]
    """Per signal, before combination."""
    returns: Mapping[str, Tensor]
    advantages: Tensor
    """Combined, centred or whitened: what the actor sees."""


@dataclass(frozen=True)
class PolicyUpdate:
    """What one update leaves behind besides new weights."""

    experience: Experience
    metrics: Mapping[str, float]
    """Over all ranks; the same on each."""
    phase_seconds: Mapping[str, float]


def update_policy(learner: PolicyLearner, samples: Samples, terms: SignalTerms, step: int) -> PolicyUpdate:
    """Learn once from one batch; every rank calls it with its own samples.

    Args:
        step: optimiser step, from 1: seeds the shuffle and places the learning rate.

    Raises:
        NonFiniteUpdate: a log-prob, value, loss or gradient is not finite; names the requests.
    """
    start = time.perf_counter()
    experience = make_experience(learner, samples, terms)
    made = time.perf_counter()
    tally = Tally(learner.ranks)
    describe_experience(tally, experience)
    for minibatch in plan_minibatches(learner, experience, step):
        update_on_minibatch(learner, experience, minibatch, step, tally)
    metrics = tally.metrics()
    done = time.perf_counter()
    return PolicyUpdate(experience, metrics, {"experience": made - start, "update": done - made})


# --- 1 to 3: experience ----------------------------------------------------------------------------------------------


@torch.no_grad()
def make_experience(learner: PolicyLearner, samples: Samples, terms: SignalTerms) -> Experience:
    """Log-probs and values at the present weights, then advantages and returns."""
    settings, mask = learner.settings, samples.mask
    proximal, values = evaluate(learner, samples)
    terminal = {
        REWARD: (samples.reward - learner.reward_mean) / learner.reward_std
        if learner.maximises
        else torch.zeros_like(samples.reward)
    }
    for name, costs in samples.costs.items():
        g = learner.measures[name].g(costs.numpy(), terms.measure_state.get(name, {}))
        terminal[cost_signal(name)] = torch.from_numpy(g).float()

    streams = {
        REWARD: shape_rewards(
            proximal, samples.reference_logprobs, terminal[REWARD], mask,
            kl_coefficient=settings.kl_coefficient, clip=settings.clip_score,
        )
    }  # fmt: skip
    for name in samples.costs:
        streams[cost_signal(name)] = shape_costs(
            proximal, samples.reference_logprobs, terminal[cost_signal(name)], mask,
            kl_coefficient=settings.kl_coefficient, subset_mask=samples.subset[name], clip=settings.clip_score,
        )  # fmt: skip
    advantages: dict[str, Tensor] = {}
    returns: dict[str, Tensor] = {}
    for signal, stream in streams.items():
        advantages[signal], returns[signal] = generalised_advantages(
            stream, values[signal], mask, gamma=settings.gamma, gae_lambda=settings.gae_lambda
        )

    combined = combine_advantages(
        advantages[REWARD],
        {name: advantages[cost_signal(name)] for name in samples.costs},
        terms.multipliers,
        samples.subset,
    )
    mean, std = mean_and_std(learner.ranks.sum(advantage_moments(combined, mask)))
    if settings.advantages != "raw":
        combined = whiten(combined, mask, mean, std if settings.advantages == "whitened" else None)
    return Experience(
        samples=samples,
        mask=mask,
        proximal_logprobs=proximal,
        importance_weights=truncated_importance_weights(proximal, samples.behaviour_logprobs, settings.importance_cap),
        values=values,
        signal_advantages=advantages,
        returns=returns,
        advantages=combined,
    )


def evaluate(learner: PolicyLearner, samples: Samples) -> tuple[Tensor, dict[str, Tensor]]:
    """Proximal log-probs and values per signal ``[B, R]``, float32 on the host, zero outside the mask."""
    lengths = total_lengths(samples)
    everything = np.arange(len(lengths))
    wanted = micro_batch_count(everything, lengths, learner.tokens_per_micro_batch)
    count = int(learner.ranks.max(torch.tensor(float(wanted))))
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
    weight = (
        samples.response_lengths.double()
        if settings.loss == "token_mean"
        else torch.ones(len(lengths), dtype=torch.float64)
    )
    sums = learner.ranks.sum(torch.stack([(members * weight)[:, rows].sum(dim=1) for _, _, rows in parts]))
    counts = learner.ranks.max(
        torch.tensor([float(micro_batch_count(rows, lengths, learner.tokens_per_micro_batch)) for _, _, rows in parts])
    )
    return [
        Minibatch(
            epoch, index, micro_batches(rows, lengths, int(counts[i])),
            {signal: max(1.0, float(sums[i, column])) for column, signal in enumerate(signals)},
        )
        for i, (epoch, index, rows) in enumerate(parts)
    ]  # fmt: skip


def update_on_minibatch(
    learner: PolicyLearner, experience: Experience, minibatch: Minibatch, step: int, tally: Tally
) -> None:
    """One gradient update of the actor and of every critic."""
    settings, ranks = learner.settings, learner.ranks
    last_epoch = minibatch.epoch == settings.epochs - 1
    broken: list[int] = []
    for rows in minibatch.micro_batches:
        batch = _rows_of(experience, rows, learner.actor.device)
        current = learner.actor.forward(*batch.inputs, settings.temperature)
        loss = policy_loss(
            current, batch.proximal_logprobs, batch.advantages, batch.mask, clip_ratio=settings.clip_ratio,
            importance_weights=batch.importance_weights, **_denominator(settings, minibatch.denominators[REWARD]),
        )  # fmt: skip
        learner.actor.backward(loss)
        ratio = torch.where(batch.mask, torch.exp(current.detach() - batch.proximal_logprobs), 1.0)
        finite = torch.isfinite(ratio).all(dim=1)
        tally.policy(loss, ratio[batch.mask], settings.clip_ratio, keep_ratios=last_epoch)
        for critic in learner.critics:
            finite &= _critic_backward(critic, batch, settings, minibatch.denominators, tally)
        broken += rows[~finite.cpu().numpy()[: len(rows)]].tolist()
        if not torch.isfinite(loss.detach()) and not broken:
            broken += rows.tolist()  # a loss of finite parts that overflowed: any of them
    if learner.ptx is not None:
        for loss_share in _ptx_losses(learner, step, minibatch):
            learner.actor.backward(settings.ptx_coefficient * loss_share)
            tally.ptx(loss_share)
    require_finite(ranks, experience.samples, np.asarray(broken, dtype=np.int64), "log-prob, value or loss")

    rates = {"warmup_steps": settings.warmup_steps, "total_steps": settings.steps}
    actor_rate = learning_rate(step - 1, base=settings.actor_learning_rate, schedule=settings.schedule, **rates)
    critic_rate = learning_rate(step - 1, base=settings.critic_learning_rate, schedule=settings.schedule, **rates)
    try:
        actor_norm = learner.actor.step(actor_rate)
        critic_norms = [critic.engine.step(critic_rate) for critic in learner.critics]
    except NonFiniteUpdate as error:
        rows = np.concatenate(minibatch.micro_batches)
        ids = experience.samples.request_ids
        raise NonFiniteUpdate(
            f"{error}; it comes from one of {named([ids[row] for row in rows])}, or from PTX"
        ) from error
    tally.updated(actor_norm, critic_norms, minibatch.denominators)


@dataclass(frozen=True)
class _Rows:
    """A micro-batch of an Experience on the engine's device; no rows become one that the mask takes out."""

    inputs: tuple[Tensor, Tensor, Tensor]
    mask: Tensor
    subset: Mapping[str, Tensor]
    proximal_logprobs: Tensor
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
        importance_weights=cut(experience.importance_weights),
        advantages=cut(experience.advantages),
        values={signal: cut(table) for signal, table in experience.values.items()},
        returns={signal: cut(table) for signal, table in experience.returns.items()},
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
            heads[..., head], batch.values[signal], batch.returns[signal], mask, clip_value=settings.clip_value,
            **_denominator(settings, denominators[signal]),
        )  # fmt: skip
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
        seed, rows=learner.settings.ptx_batch_size, rank=learner.ranks.rank, ranks=learner.ranks.size,
        tokens_per_micro_batch=learner.tokens_per_micro_batch, device=learner.actor.device,
    ):  # fmt: skip
        logprobs = learner.actor.forward(*batch.inputs, 1.0)
        yield -(torch.where(batch.mask, logprobs, 0.0)).sum() / batch.token_count


def require_finite(ranks: Ranks, samples: Samples, broken: np.ndarray, what: str) -> None:
    """All ranks raise together when any rank has a broken row, so that none is left waiting.

    Raises:
        NonFiniteUpdate: names the requests.
    """
    if float(ranks.max(torch.tensor(float(len(broken) > 0)))) == 0.0:
        return
    ids = samples.request_ids
    names = {name for one in ranks.gather_objects([ids[row] for row in broken]) for name in one}
    raise NonFiniteUpdate(
        f"a {what} of {named(names)} is not finite: the update was stopped before the optimiser moved; "
        "look at the sample in rollouts/ and lower the learning rate, or go on from a checkpoint"
    )


def named(request_ids: Collection[str]) -> str:
    """Request ids for a message, at most eight of them."""
    names = sorted(set(request_ids))
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"request {', '.join(names[:8])}{more}"
