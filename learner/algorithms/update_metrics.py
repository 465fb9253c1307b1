"""The figures of one update, added up over micro-batches and ranks; `Tally.metrics` gives the same on every rank.

Invariant: every mean is a sum of numerators over a sum of denominators, so it does not depend on how rows were dealt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from learner.algorithms.experience import REWARD, cost_signal
from learner.engine.collective import Ranks

if TYPE_CHECKING:
    from learner.algorithms.policy_batch import Experience

Number = Tensor | float | int

_LOSSES, _CRITIC_LOSS = frozenset({"actor_loss", "kl_loss", "ptx_loss"}), "critic_loss/"
"""Each is a sum over a minibatch: counted once per minibatch, when `Tally.updated` says that it is done."""


class Tally:
    """Collects one rank's numbers; only `metrics` communicates."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._ratios: dict[str, tuple[float, float]] = {}
        self._highest: dict[str, float] = {}
        self._columns: dict[str, list[Tensor]] = {}
        self._residuals: dict[str, Tensor] = {}
        self._worst: dict[str, tuple[float, str]] = {}

    def mean(self, name: str, numerator: Number, denominator: Number) -> None:
        """Add to a mean over all ranks; every rank must name the same means, with 0 / 0 where it has nothing."""
        above, below = self._ratios.get(name, (0.0, 0.0))
        self._ratios[name] = (above + float(numerator), below + float(denominator))

    def highest(self, name: str, value: Number) -> None:
        """Keep the maximum over all ranks."""
        self._highest[name] = max(self._highest.get(name, float("-inf")), float(value))

    def worst(self, name: str, values: Tensor, request_ids: Sequence[str]) -> None:
        """Keep which request has the highest of values ``[B]``."""
        row = int(values.argmax())
        self._worst[name] = (float(values[row]), request_ids[row])

    def column(self, name: str, values: Tensor) -> None:
        """Keep values ``[n]`` whose quantiles are wanted."""
        self._columns.setdefault(name, []).append(values.detach().float().cpu().reshape(-1))

    def residuals(self, signal: str, values: Tensor, returns: Tensor) -> None:
        """Values and returns ``[n]`` of one signal at the start of the step, for the explained variance."""
        targets, errors = returns.double(), (returns - values).double()
        count = torch.tensor(float(targets.numel()), dtype=torch.float64)
        self._residuals[signal] = torch.stack(
            [count, targets.sum(), targets.square().sum(), errors.sum(), errors.square().sum()]
        )

    def policy(self, loss: Tensor, ratio: Tensor, clip_ratio: float, *, keep_ratios: bool) -> None:
        """One micro-batch of the actor: its share of the loss and the ratios q ``[n]`` of its valid tokens."""
        self.mean("actor_loss", loss.detach(), 0)
        self.mean("clip_fraction", ((ratio - 1.0).abs() > clip_ratio).sum(), ratio.numel())
        if keep_ratios:
            self.column("ratio", ratio)

    def divergence(self, loss: Tensor) -> None:
        """One micro-batch's share of the KL loss, before its coefficient."""
        self.mean("kl_loss", loss.detach(), 0)

    def critic(self, signal: str, loss: Tensor) -> None:
        """One micro-batch's share of a critic's loss."""
        self.mean(f"{_CRITIC_LOSS}{signal}", loss.detach(), 0)

    def ptx(self, loss: Tensor) -> None:
        """One micro-batch's share of the supervised loss."""
        self.mean("ptx_loss", loss.detach(), 0)

    def updated(self, actor_norm: float, critic_norms: Sequence[float]) -> None:
        """One minibatch is done: count it in the means over minibatches."""
        share = 1.0 / self._ranks.size
        # By whole names: a constraint may be called "data_loss", and its metrics are no losses.
        for name in [name for name in self._ratios if name in _LOSSES or name.startswith(_CRITIC_LOSS)]:
            self.mean(name, 0, share)
        self.mean("gradient_norm/actor", actor_norm * share, share)
        for norm in critic_norms:
            self.mean("gradient_norm/critic", norm * share, share)

    def metrics(self) -> dict[str, float]:
        """Everything over all ranks; a mean with nothing under it is left out."""
        metrics: dict[str, float] = {}
        names = sorted(self._ratios)
        sums = self._ranks.sum(torch.tensor([self._ratios[name] for name in names], dtype=torch.float64))
        metrics |= {name: float(above / below) for name, (above, below) in zip(names, sums, strict=True) if below > 0}
        tops = sorted(self._highest)
        highest = self._ranks.max(torch.tensor([self._highest[name] for name in tops], dtype=torch.float64))
        metrics |= {name: float(value) for name, value in zip(tops, highest, strict=True)}
        if "importance_weight_lowest" in metrics:
            metrics["importance_weight_min"] = -metrics.pop("importance_weight_lowest")
        for signal in sorted(self._residuals):
            metrics[f"explained_variance/{signal}"] = explained_variance(self._ranks.sum(self._residuals[signal]))
        for name, quantiles in _QUANTILES.items():
            ordered = self._ranks.gather(torch.cat(self._columns[name])).sort().values
            metrics |= {
                f"{name}_{label}": float(ordered[round(share * (len(ordered) - 1))])
                for label, share in quantiles.items()
            }
        spread = metrics.pop("advantage_square") - metrics["advantage_mean"] ** 2
        metrics["advantage_std"] = max(spread, 0.0) ** 0.5
        return metrics

    def notes(self) -> dict[str, str]:
        """Over all ranks: of each `worst`, the request; the first by name where several are equal."""
        names = sorted(self._worst)
        everyone = self._ranks.gather_objects([self._worst[name] for name in names])
        return {
            name: min((-value, request_id) for value, request_id in candidates)[1]
            for name, candidates in zip(names, zip(*everyone, strict=True), strict=True)
        }


_QUANTILES: Mapping[str, Mapping[str, float]] = {
    "ratio": {"q01": 0.01, "q50": 0.5, "q99": 0.99},
    "delta_logprob": {"q50": 0.5, "q90": 0.9, "q99": 0.99, "max": 1.0},
}


def explained_variance(moments: Tensor) -> float:
    """1 - Var(G - V) / Var(G) from ``[5]``: count, sums of G, G^2, G - V and (G - V)^2; 0 for a constant G."""
    count, total, square, error, error_square = (float(moment) for moment in moments)
    if count == 0:
        return 0.0
    variance = square / count - (total / count) ** 2
    residual_variance = error_square / count - (error / count) ** 2
    return 1.0 - residual_variance / variance if variance > 1e-12 else 0.0


def describe_experience(tally: Tally, experience: Experience) -> None:
    """Everything that is known before the first gradient: scores, KL, entropy, lengths, advantages, gaps."""
    samples, mask = experience.samples, experience.mask
    rows, tokens = len(samples.meta), int(mask.sum())
    tally.mean(REWARD, samples.reward.double().sum(), rows)
    for name, costs in samples.costs.items():
        member = samples.subset[name]
        tally.mean(cost_signal(name), costs[member].double().sum(), member.sum())
    kl = torch.where(mask, experience.proximal_logprobs - samples.reference_logprobs, 0.0).double().sum()
    tally.mean("kl", kl, rows)
    tally.mean("kl_per_token", kl, tokens)
    # Sampled tokens' surprise is an unbiased estimate on-policy, and needs no second pass over the vocabulary.
    tally.mean("entropy", -experience.proximal_logprobs.double().sum(), tokens)
    tally.mean("response_length", samples.response_lengths.double().sum(), rows)
    tally.mean("truncation_rate", sum(meta.finish_reason == "length" for meta in samples.meta), rows)
    tally.mean("tokens", tokens, 1.0 / tally._ranks.size)
    advantages = experience.advantages[mask].double()
    tally.mean("advantage_mean", advantages.sum(), tokens)
    tally.mean("advantage_square", advantages.square().sum(), tokens)
    weights = experience.importance_weights[mask].double()
    tally.mean("importance_weight_mean", weights.sum(), tokens)
    tally.highest("importance_weight_lowest", -weights.min() if tokens else float("-inf"))
    gaps = torch.where(mask, (experience.proximal_logprobs - samples.behaviour_logprobs).abs(), 0.0)
    tally.column("delta_logprob", gaps[mask])
    tally.worst("delta_logprob_worst", gaps.amax(dim=1), samples.request_ids)
    for signal, values in experience.values.items():
        valid = mask
        for name, member in samples.subset.items():
            if signal == cost_signal(name):
                valid = mask & member[:, None]
        tally.residuals(signal, values[valid], experience.estimate.returns[signal][valid])
