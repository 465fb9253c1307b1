"""The same update under every algorithm of the loop, and what the reference settings change in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from configs.layout import RunLayout
from configs.schema.ppo import GroupSettings, PpoSettings
from learner.algorithms.experience import assemble, deal_rows
from learner.algorithms.losses import kl_loss
from learner.algorithms.ptx import PtxData
from learner.algorithms.update import PolicyLearner, PolicyUpdate, make_experience, plan_minibatches, update_policy
from learner.engine.deepspeed_engine import NonFiniteUpdate
from learner.ranks.rollout_files import rollout_file, rollout_table, write_rollouts
from learner.records import SignalTerms
from serving.explain.why import explain, render
from tests.learner.tiny_learner import CONSTRAINTS, PlainEngine, made_up_batch, tiny_learner

GROUP_ALGORITHMS = ("grpo_lag", "gdpo", "rvpo")
TERMS = SignalTerms({"harm": 1.5, "bias": 0.7}, {"harm": {"slope": 2.0, "intercept": 0.1}, "bias": {}})
GROUPS = GroupSettings(size=4)
ONE_MINIBATCH = PpoSettings(batch_size=48, minibatch_size=48, epochs=1, groups=GROUPS)


def _update(
    algorithm: str,
    settings: PpoSettings = ONE_MINIBATCH,
    *,
    terms: SignalTerms = TERMS,
    order: int | None = None,
    rows: int = 48,
    **changes: Any,
) -> tuple[PolicyLearner, PolicyUpdate]:
    batch = made_up_batch(rows, group_size=4)
    if order is not None:
        batch = replace(batch, rows=tuple(np.random.default_rng(order).permutation(np.array(batch.rows, dtype=object))))
    learner = tiny_learner(settings, algorithm=algorithm, **changes)
    return learner, update_policy(learner, batch.all_samples(), terms, step=1)


def _gradient(learner: PolicyLearner) -> dict[str, torch.Tensor]:
    engine = learner.actor
    assert isinstance(engine, PlainEngine)
    return engine.gradient


def _weights(learner: PolicyLearner) -> torch.Tensor:
    engines = [learner.actor, *(critic.engine for critic in learner.critics)]
    return torch.cat([t.flatten().clone() for one in engines for group in one.gathered_parameters(0) for _, t in group])


# --- algorithms without critics ---


@pytest.mark.parametrize("algorithm", GROUP_ALGORITHMS)
def test_row_order_and_micro_batch_size_change_neither_gradient_nor_figures(algorithm: str) -> None:
    first, first_update = _update(algorithm)
    other, other_update = _update(algorithm, order=5, tokens_per_micro_batch=10_000)
    for name, gradient in _gradient(first).items():
        torch.testing.assert_close(gradient, _gradient(other)[name], rtol=1e-5, atol=1e-5)
    assert first_update.metrics == pytest.approx(other_update.metrics, rel=1e-4, abs=1e-5)
    assert first_update.notes == other_update.notes


@pytest.mark.parametrize("algorithm", GROUP_ALGORITHMS)
def test_every_metric_is_there_and_finite_and_none_of_a_critic(algorithm: str) -> None:
    _, update = _update(algorithm, PpoSettings(batch_size=48, minibatch_size=16, epochs=2, groups=GROUPS))
    names = {
        "actor_loss",
        "kl_loss",
        "reward",
        "cost/harm",
        "cost/bias",
        "kl",
        "kl_per_token",
        "entropy",
        "clip_fraction",
        "ratio_q01",
        "ratio_q50",
        "ratio_q99",
        "delta_logprob_q50",
        "delta_logprob_q90",
        "delta_logprob_q99",
        "delta_logprob_max",
        "importance_weight_mean",
        "importance_weight_min",
        "gradient_norm/actor",
        "response_length",
        "truncation_rate",
        "advantage_mean",
        "advantage_std",
        "tokens",
        "groups_degenerate",
        "group_spread/reward",
        "group_spread/cost/harm",
        "group_spread/cost/bias",
    }
    assert set(update.metrics) == names
    assert all(np.isfinite(value) for value in update.metrics.values())


@pytest.mark.parametrize("loss", ["token_mean", "row_mean"])
def test_the_loss_is_the_surrogate_plus_beta_times_k3_computed_by_hand(loss: str) -> None:
    gradients = {}
    for beta in (0.0, 0.3):
        settings = ONE_MINIBATCH.model_copy(update={"kl_coefficient": beta, "loss": loss, "gradient_clip": 1e9})
        learner, update = _update("grpo_lag", settings)
        gradients[beta] = _gradient(learner)
    experience = update.experience
    fresh = tiny_learner(ONE_MINIBATCH, algorithm="grpo_lag")
    samples, mask = experience.samples, experience.mask
    current = fresh.actor.forward(samples.input_ids, samples.prompt_lengths, samples.response_lengths, 1.0)
    gap = samples.reference_logprobs - current
    k3 = torch.where(mask, torch.exp(gap) - gap - 1.0, 0.0)
    k3 = k3.sum() / mask.sum() if loss == "token_mean" else (k3.sum(dim=1) / mask.sum(dim=1)).mean()
    assert update.metrics["kl_loss"] == pytest.approx(float(k3.detach()), rel=1e-4)
    parameters = dict(fresh.actor.module.named_parameters())  # type: ignore[attr-defined]
    by_hand = torch.autograd.grad(0.3 * k3, list(parameters.values()))
    for name, wanted in zip(parameters, by_hand, strict=True):
        torch.testing.assert_close(gradients[0.3][name] - gradients[0.0][name], wanted, rtol=1e-3, atol=1e-5)


def test_the_actor_sees_the_estimators_advantage_and_no_more() -> None:
    # At the proximal weights q = 1: the loss is -mean over tokens of w * A. The ppo_lag setting `advantages` has no say.
    for kind in ("raw", "whitened"):
        _, update = _update("gdpo", ONE_MINIBATCH.model_copy(update={"advantages": kind}))
        experience = update.experience
        by_hand = -(experience.importance_weights * experience.advantages)[experience.mask].mean()
        assert update.metrics["actor_loss"] == pytest.approx(float(by_hand), abs=1e-6)
        per_row = experience.advantages[:, 0].double()
        assert float(per_row.mean()) == pytest.approx(0.0, abs=1e-6)
        assert float(per_row.std(correction=0)) == pytest.approx(1.0, abs=1e-6)


def test_rewards_are_normalised_and_g_is_taken_before_groups_are_judged() -> None:
    learner = tiny_learner(ONE_MINIBATCH, algorithm="grpo_lag")
    samples = made_up_batch(48, group_size=4).all_samples()
    found = make_experience(learner, samples, TERMS).estimate.advantages
    row = 0
    group = [index for index, meta in enumerate(samples.meta) if meta.prompt_id == samples.meta[row].prompt_id]
    reward = (samples.reward[group] - 0.5) / 2.0
    wanted = (reward - reward.mean()) / max(float(reward.std(correction=0)), GROUPS.spread_floor)
    assert found["reward"][group, 0].tolist() == pytest.approx(wanted.tolist(), abs=1e-5)
    member = [index for index, meta in enumerate(samples.meta) if bool(samples.subset["harm"][index])]
    group = [index for index in member if samples.meta[index].prompt_id == samples.meta[member[0]].prompt_id]
    g = torch.sigmoid(2.0 * samples.costs["harm"][group] + 0.1)
    assert found["cost/harm"][group, 0].tolist() == pytest.approx((g - g.mean()).tolist(), abs=1e-5)


def test_a_sample_set_aside_makes_its_group_smaller() -> None:
    _, update = _update("grpo_lag", rows=45)  # the last group has one member
    samples = update.experience.samples
    alone = next(index for index, meta in enumerate(samples.meta) if meta.prompt_id == "p0011")
    assert not update.experience.advantages[alone].any()


@pytest.mark.parametrize("algorithm", ["ppo_lag", *GROUP_ALGORITHMS])
def test_without_an_objective_the_policy_still_learns_from_costs(algorithm: str) -> None:
    learner, update = _update(algorithm, maximises=False)
    assert not torch.equal(_weights(learner), _weights(tiny_learner(ONE_MINIBATCH, algorithm=algorithm)))
    if algorithm != "ppo_lag":
        assert not update.experience.estimate.advantages["reward"].any()


@pytest.mark.parametrize("algorithm", GROUP_ALGORITHMS)
def test_without_constraints_only_the_reward_counts(algorithm: str) -> None:
    learner = tiny_learner(ONE_MINIBATCH, algorithm=algorithm, constraints=())
    samples = made_up_batch(48, group_size=4).all_samples(constraints=())
    update = update_policy(learner, samples, SignalTerms({}, {}), step=1)
    assert set(update.experience.estimate.advantages) == {"reward"} and update.experience.advantages.any()


def test_rollouts_of_a_group_algorithm_have_no_values_and_steelyard_why_reads_them(tmp_path: Path) -> None:
    _, update = _update("rvpo")
    table = rollout_table(update.experience, TERMS.multipliers, step=1)
    assert not [name for name in table.column_names if name.startswith("values/")]
    assert all(len(set(row)) == 1 for row in table["advantages/cost/harm"].to_pylist())
    write_rollouts(rollout_file(RunLayout(tmp_path).rollouts, 1, 0), update.experience, TERMS.multipliers, 1)
    story = explain(tmp_path, "r0003")
    assert set(story.tokens[0].signal_advantages) == {"reward", "cost/harm", "cost/bias"}
    assert render(story)


def test_k3_is_zero_at_the_reference_positive_elsewhere_and_blind_outside_the_mask() -> None:
    current = torch.tensor([[-1.0, -2.0, float("inf")]])
    mask = torch.tensor([[True, True, False]])
    assert float(kl_loss(current, current, mask)) == 0.0
    shifted = current + torch.tensor([[0.5, -0.5, 0.0]])
    by_hand = (np.exp(0.5) - 0.5 - 1 + np.exp(-0.5) + 0.5 - 1) / 2
    assert float(kl_loss(current, shifted, mask)) == pytest.approx(by_hand)


# --- what stops an update ---


def test_a_terminal_score_that_overflows_is_named() -> None:
    learner = tiny_learner(ONE_MINIBATCH, algorithm="grpo_lag", reward_std=1e-38)
    samples = made_up_batch(48, group_size=4).all_samples()
    samples.reward[:] = 0.5
    samples.reward[samples.request_ids.index("r0017")] = 50.0
    before = _weights(learner)
    with pytest.raises(NonFiniteUpdate, match=r"terminal score of request r0017 is not finite"):
        update_policy(learner, samples, TERMS, step=1)
    assert torch.equal(before, _weights(learner))


@pytest.mark.parametrize("broken", ["critic", "actor"])
def test_a_gradient_that_is_not_finite_moves_neither_actor_nor_critics(broken: str) -> None:
    learner = tiny_learner(PpoSettings(batch_size=48, minibatch_size=48, epochs=1, critics="separate"))
    engine = learner.critics[-1].engine if broken == "critic" else learner.actor
    honest = engine.forward

    def forward(*inputs: torch.Tensor) -> torch.Tensor:
        output = honest(*inputs)
        if output.requires_grad:
            output.register_hook(lambda gradient: torch.full_like(gradient, float("nan")))
        return output

    engine.forward = forward  # type: ignore[method-assign]
    before = _weights(learner)
    with pytest.raises(NonFiniteUpdate, match=r"gradient of request r00.*before the optimiser moved"):
        update_policy(learner, made_up_batch().all_samples(), TERMS, step=1)
    assert torch.equal(before, _weights(learner))


def test_a_supervised_gradient_that_is_not_finite_moves_nothing_and_is_not_blamed_on_a_sample() -> None:
    generator = np.random.default_rng(0)
    rows = [generator.integers(3, 40, 12).astype(np.int32) for _ in range(20)]
    settings = ONE_MINIBATCH.model_copy(update={"ptx_coefficient": 1e30, "ptx_batch_size": 8})
    learner = tiny_learner(settings, ptx=PtxData(rows, np.full(20, 5)))
    before = _weights(learner)
    with pytest.raises(NonFiniteUpdate, match=r"gradient of the actor is not finite.*look at the PTX rows"):
        update_policy(learner, made_up_batch().all_samples(), TERMS, step=1)
    assert torch.equal(before, _weights(learner))


def test_the_request_with_the_largest_log_prob_gap_is_noted() -> None:
    batch = made_up_batch()
    samples = batch.all_samples()
    samples.behaviour_logprobs[samples.request_ids.index("r0023"), 0] -= 5.0
    update = update_policy(tiny_learner(ONE_MINIBATCH), samples, TERMS, step=1)
    assert update.notes == {"delta_logprob_worst": "r0023"}
    metrics = [update.metrics[f"delta_logprob_{name}"] for name in ("q50", "q90", "q99", "max")]
    assert metrics == sorted(metrics) and metrics[-1] > 4.0 and metrics[0] < 1.0


# --- reference settings ---


@pytest.mark.parametrize("algorithm", ["ppo_lag", "grpo_lag"])
def test_each_minibatch_learns_with_its_own_multiplier(algorithm: str) -> None:
    other = {"harm": 4.0, "bias": 0.0}
    plain, _ = _update(algorithm, terms=replace(TERMS, multipliers=other))
    own, _ = _update(algorithm, terms=replace(TERMS, minibatch_multipliers=(other,)))
    unlike, _ = _update(algorithm)
    for name, gradient in _gradient(plain).items():
        assert torch.equal(gradient, _gradient(own)[name])
    assert any(not torch.equal(gradient, _gradient(unlike)[name]) for name, gradient in _gradient(own).items())


def test_the_multipliers_of_minibatches_are_taken_in_turn_and_the_last_goes_on() -> None:
    settings = PpoSettings(batch_size=48, minibatch_size=16, epochs=1)
    high, low = {"harm": 4.0, "bias": 0.0}, {"harm": 0.0, "bias": 2.0}

    def weights(*multipliers: dict[str, float]) -> torch.Tensor:
        learner, _ = _update("ppo_lag", settings, terms=replace(TERMS, minibatch_multipliers=multipliers))
        return _weights(learner)

    assert torch.equal(weights(high, low), weights(high, low, low))
    assert not torch.equal(weights(high, low), weights(low, high))


def test_masks_by_token_id_leave_those_tokens_out_of_everything() -> None:
    batch = made_up_batch()
    shard = deal_rows(batch.rows, ranks=1, seed=3, step=0)[0]
    unknown = 7
    samples = assemble(shard, batch.rollouts, batch.scores, CONSTRAINTS, 0, excluded_token_ids=(0, unknown))
    whole = batch.all_samples()
    response = [row[-length:].tolist() for row, length in _responses(batch, whole)]
    kept = [[token != unknown for token in row] for row in response]
    assert [mask[: len(row)].tolist() for mask, row in zip(samples.mask, kept, strict=True)] == kept
    assert 0 < int(whole.mask.sum() - samples.mask.sum()) < 60
    learner = tiny_learner(ONE_MINIBATCH)
    plan = plan_minibatches(learner, make_experience(learner, samples, TERMS), step=1)
    assert plan[0].denominators["reward"] == float(samples.mask.sum())
    first = update_policy(learner, samples, TERMS, step=1)
    left_out = whole.mask & ~samples.mask
    samples.behaviour_logprobs[left_out] += 3.0
    samples.reference_logprobs[left_out] -= 3.0
    second = update_policy(tiny_learner(ONE_MINIBATCH), samples, TERMS, step=1)
    assert first.metrics == second.metrics and first.metrics["tokens"] == float(samples.mask.sum())


def _responses(batch: Any, samples: Any) -> list[tuple[np.ndarray, int]]:
    tokens = {
        meta.request_id: (ids, meta.response_length)
        for chunk in batch.rollouts.values()
        for meta, ids in zip(chunk.meta, chunk.token_ids, strict=True)
    }
    return [tokens[request_id] for request_id in samples.request_ids]
