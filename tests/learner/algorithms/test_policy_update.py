"""One PPO-Lag update on one rank: what it must not depend on, what it must equal, and what must stop it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from configs.schema.ppo import PpoSettings
from learner.algorithms.experience import BLOCK, BadBatch, RankShard, deal_rows, minibatch_rows, total_lengths
from learner.algorithms.ptx import PtxData
from learner.algorithms.update import PolicyLearner, PolicyUpdate, make_experience, plan_minibatches, update_policy
from learner.engine.deepspeed_engine import NonFiniteUpdate, deepspeed_config, learning_rate
from learner.ranks.rollout_files import rollout_table
from learner.records import ScoreChunk, SignalTerms
from tests.learner.tiny_learner import CONSTRAINTS, made_up_batch, tiny_learner

TERMS = SignalTerms({"harm": 1.5, "bias": 0.7}, {"harm": {"slope": 2.0, "intercept": 0.1}, "bias": {}})
ONE_MINIBATCH = PpoSettings(batch_size=48, minibatch_size=48, epochs=1)


def _gradient(learner: PolicyLearner) -> dict[str, torch.Tensor]:
    engines = [learner.actor, *(critic.engine for critic in learner.critics)]
    return {f"{index}.{name}": one for index, engine in enumerate(engines) for name, one in engine.gradient.items()}


def _weights(learner: PolicyLearner) -> torch.Tensor:
    engines = [learner.actor, *(critic.engine for critic in learner.critics)]
    return torch.cat([one.detach().flatten() for engine in engines for one in engine.module.parameters()])


def _update(
    settings: PpoSettings = ONE_MINIBATCH, order: int | None = None, **changes: object
) -> tuple[PolicyLearner, PolicyUpdate]:
    batch = made_up_batch()
    if order is not None:
        batch = replace(batch, rows=tuple(np.random.default_rng(order).permutation(np.array(batch.rows, dtype=object))))
    learner = tiny_learner(settings, **changes)
    return learner, update_policy(learner, batch.all_samples(), TERMS, step=1)


@pytest.mark.parametrize("loss", ["token_mean", "row_mean"])
@pytest.mark.parametrize("critics", ["shared", "separate"])
def test_row_order_and_micro_batch_size_change_neither_gradient_nor_figures(loss: str, critics: str) -> None:
    settings = PpoSettings(batch_size=48, minibatch_size=48, epochs=1, loss=loss, critics=critics)
    first, first_update = _update(settings)
    other, other_update = _update(settings, order=5, tokens_per_micro_batch=10_000)
    for name, gradient in _gradient(first).items():
        torch.testing.assert_close(gradient, _gradient(other)[name], rtol=1e-5, atol=1e-5)
    assert first_update.metrics == pytest.approx(other_update.metrics, rel=1e-4, abs=1e-5)


def test_the_same_update_twice_is_equal_bit_for_bit() -> None:
    settings = PpoSettings(batch_size=48, minibatch_size=16, epochs=2)
    first, first_update = _update(settings)
    second, second_update = _update(settings)
    assert torch.equal(_weights(first), _weights(second))
    assert first_update.metrics == second_update.metrics


def test_the_update_is_the_token_mean_of_the_surrogate_computed_by_hand() -> None:
    # At the proximal weights q = 1, so the actor's loss is -mean over tokens of w * A (Schulman et al. 2017, eq. 7).
    _, update = _update()
    experience = update.experience
    by_hand = -(experience.importance_weights * experience.advantages)[experience.mask].mean()
    assert update.metrics["actor_loss"] == pytest.approx(float(by_hand), abs=1e-6)
    assert update.metrics["clip_fraction"] == 0.0 and update.metrics["ratio_q99"] == pytest.approx(1.0, abs=1e-5)
    assert update.metrics["tokens"] == float(experience.mask.sum())
    assert update.metrics["advantage_mean"] == pytest.approx(0.0, abs=1e-6)  # centred over all tokens


def test_every_parameter_of_policy_and_critics_moves() -> None:
    learner, _ = _update()
    before = tiny_learner(ONE_MINIBATCH)
    engines = [
        (learner.actor, before.actor),
        *zip([c.engine for c in learner.critics], [c.engine for c in before.critics], strict=True),
    ]
    for engine, fresh in engines:
        for (name, now), then in zip(engine.module.named_parameters(), fresh.module.parameters(), strict=True):
            assert not torch.equal(now, then), f"{name} did not move"


def test_prompts_outside_every_subset_get_the_advantage_of_plain_ppo() -> None:
    settings = replace_settings(advantages="raw")
    batch = made_up_batch()
    outside = replace(batch, rows=tuple(replace(row, subset=frozenset()) for row in batch.rows))
    constrained = make_experience(tiny_learner(settings), outside.all_samples(), TERMS)
    plain = tiny_learner(settings)
    experience = make_experience(replace(plain, measures={}), outside.all_samples(constraints=()), SignalTerms({}, {}))
    assert torch.equal(constrained.advantages, experience.advantages)


def test_the_net_kl_weight_is_beta_whatever_the_multipliers() -> None:
    # With zero values and scores A_t sums beta * k from t on, so combined and reward-only are equal (paper B, B.2).
    settings = replace_settings(advantages="raw", kl_coefficient=0.3)
    batch = made_up_batch()
    flat = {
        key: ScoreChunk(
            one.request_ids, {name: 0 * values for name, values in one.scores.items()}, one.reference_logprobs
        )
        for key, one in batch.scores.items()
    }
    learner = tiny_learner(settings, reward_mean=0.0)
    learner = replace(learner, measures=dict.fromkeys(CONSTRAINTS, learner.measures["bias"]))
    for critic in learner.critics:
        torch.nn.init.zeros_(critic.engine.module.heads.weight)
    experience = make_experience(learner, replace(batch, scores=flat).all_samples(), TERMS)
    torch.testing.assert_close(experience.advantages, experience.estimate.advantages["reward"], rtol=1e-5, atol=1e-6)


def replace_settings(**changes: object) -> PpoSettings:
    return PpoSettings(**{**ONE_MINIBATCH.model_dump(), **changes})


def test_g_of_the_measure_enters_the_cost_stream() -> None:
    # rate: g = sigma(2.0 * C + 0.1), at the last token; with V = 0 and no KL the return of the first token is g.
    learner = tiny_learner(replace_settings(kl_coefficient=0.0, gae_lambda=1.0))
    samples = made_up_batch().all_samples()
    experience = make_experience(learner, samples, TERMS)
    member = samples.subset["harm"]
    expected = torch.sigmoid(2.0 * samples.costs["harm"] + 0.1)
    torch.testing.assert_close(
        experience.estimate.returns["cost/harm"][member, 0], expected[member], rtol=1e-5, atol=1e-5
    )


def test_minibatches_part_the_batch_alike_for_any_number_of_ranks() -> None:
    batch = made_up_batch(64)
    seen = []
    for ranks in (1, 2, 4):
        members: list[set[str]] = [set() for _ in range(4)]
        for shard in deal_rows(batch.rows, ranks=ranks, seed=1, step=7):
            parts = minibatch_rows(np.array(shard.positions), 64, minibatch_size=16, seed=1, step=7, epoch=1)
            assert [len(part) for part in parts] == [16 // ranks] * 4
            for group, part in zip(members, parts, strict=True):
                group |= {shard.rows[row].request_id for row in part}
        assert sorted(map(len, members)) == [16] * 4
        seen.append(members)
    assert seen[0] == seen[1] == seen[2]


def test_epochs_and_steps_shuffle_anew() -> None:
    positions = np.arange(16 * BLOCK)
    first, second = (
        minibatch_rows(positions, len(positions), minibatch_size=32, seed=1, step=1, epoch=epoch) for epoch in (0, 1)
    )
    assert any(not np.array_equal(one, other) for one, other in zip(first, second, strict=True))


def test_a_batch_that_is_not_full_is_learned_from_whole() -> None:
    batch = made_up_batch(45)  # three samples were quarantined
    settings = PpoSettings(batch_size=48, minibatch_size=16, epochs=1)
    learner = tiny_learner(settings)
    samples = batch.all_samples()
    experience = make_experience(learner, samples, TERMS)
    plan = plan_minibatches(learner, experience, step=1)
    rows = np.concatenate([part for minibatch in plan for part in minibatch.micro_batches])
    assert sorted(rows) == list(range(45))
    assert sum(one.denominators["reward"] for one in plan) == float(samples.response_lengths.sum())
    assert total_lengths(samples).max() <= 64


def test_a_sample_twice_is_refused() -> None:
    rows = made_up_batch(8).rows
    with pytest.raises(BadBatch, match="r0000 is in the batch twice"):
        deal_rows([*rows, rows[0]], ranks=2, seed=0, step=1)


def test_a_sample_in_the_wrong_row_is_refused() -> None:
    batch = made_up_batch(8)
    wrong = replace(batch.rows[0], row=batch.rows[1].row)
    with pytest.raises(BadBatch, match="mixed up"):
        batch.samples(RankShard((wrong,), (0,), 1))


@pytest.mark.parametrize("signal", ["reward", "cost/harm"])
def test_a_sample_whose_score_is_not_finite_is_named_and_refused(signal: str) -> None:
    batch = made_up_batch(8, chunks=1)
    batch.scores["scores-0"].scores[signal][3] = np.nan
    with pytest.raises(BadBatch, match=f"r0003 has no finite {signal}"):
        batch.all_samples()


def test_a_log_prob_that_is_not_finite_stops_the_update_before_anything_moves_and_names_the_request() -> None:
    batch = made_up_batch()
    learner = tiny_learner(ONE_MINIBATCH)
    samples = batch.all_samples()
    row = samples.request_ids.index("r0007")
    token = int(samples.input_ids[row, 0])
    with torch.no_grad():
        learner.actor.module.model.model.embed_tokens.weight[token] = float(
            "nan"
        )  # tied: it is a logit too, so all rows break
    before = _weights(learner).clone()
    with pytest.raises(NonFiniteUpdate, match=r"proximal log-prob or value of request r0000.* and 40 more"):
        update_policy(learner, samples, TERMS, step=1)
    assert torch.equal(before.nan_to_num(), _weights(learner).nan_to_num()) and learner.actor.steps == 0


def test_a_ratio_that_overflows_stops_the_update_and_names_only_its_request() -> None:
    learner = tiny_learner(ONE_MINIBATCH)
    samples = made_up_batch().all_samples()
    honest = learner.actor.forward

    def forward(
        input_ids: torch.Tensor, prompt_lengths: torch.Tensor, response_lengths: torch.Tensor, temperature: float
    ) -> torch.Tensor:
        logprobs = honest(input_ids, prompt_lengths, response_lengths, temperature)
        if not torch.is_grad_enabled():
            return logprobs
        guilty = (input_ids[:, :6] == samples.input_ids[samples.request_ids.index("r0011"), :6]).all(dim=1)
        return logprobs + 1000.0 * guilty[:, None]

    learner.actor.forward = forward  # type: ignore[method-assign]
    with pytest.raises(NonFiniteUpdate, match=r"of request r0011 is not finite"):
        update_policy(learner, samples, TERMS, step=1)
    assert learner.actor.steps == 0 and learner.critics[0].engine.steps == 0


def test_ptx_adds_its_coefficient_times_the_supervised_gradient() -> None:
    generator = np.random.default_rng(0)
    rows = [generator.integers(3, 40, 12).astype(np.int32) for _ in range(20)]
    data = PtxData(rows, np.full(20, 5))
    settings = PpoSettings(
        batch_size=48, minibatch_size=48, epochs=1, ptx_coefficient=2.0, ptx_batch_size=8, gradient_clip=1e9
    )
    gradients = []
    for coefficient in (0.0, 1.0, 2.0):
        learner, update = _update(settings.model_copy(update={"ptx_coefficient": coefficient}), ptx=data)
        gradients.append(_gradient(learner))
        assert update.metrics["ptx_loss"] > 0
    for name in gradients[0]:
        torch.testing.assert_close(
            gradients[2][name] - gradients[0][name], 2 * (gradients[1][name] - gradients[0][name]), rtol=1e-3, atol=1e-6
        )


def test_ptx_draws_the_same_rows_for_any_number_of_ranks() -> None:
    rows = [np.full(length, 5, dtype=np.int32) for length in range(3, 23)]
    data = PtxData(rows, np.full(20, 2))
    drawn = []
    for ranks in (1, 2):
        batches = [
            batch
            for rank in range(ranks)
            for batch in data.batches(
                [0, 1], rows=8, rank=rank, ranks=ranks, tokens_per_micro_batch=30, device=torch.device("cpu")
            )
        ]
        drawn.append(sorted(int(n) for batch in batches for n in batch.inputs[2]))
        assert sum(drawn[-1]) == batches[0].token_count
    assert drawn[0] == drawn[1]


def test_the_rollout_table_explains_every_sample() -> None:
    _, update = _update()
    table = rollout_table(update.experience, TERMS.multipliers, step=1).to_pydict()
    samples = update.experience.samples
    row = table["request_id"].index("r0003")
    length = table["response_length"][row]
    assert len(table["token_ids"][row]) == table["prompt_length"][row] + length
    for column in (
        "behaviour_logprobs",
        "proximal_logprobs",
        "reference_logprobs",
        "advantages",
        "advantages/reward",
        "advantages/cost/harm",
    ):
        assert len(table[column][row]) == length
    assert table["advantages"][row] == pytest.approx(update.experience.advantages[row, :length].tolist())
    assert table["multiplier/harm"][row] == 1.5 and table["applies/harm"][row] == bool(samples.subset["harm"][row])


def test_every_metric_is_there_and_finite() -> None:
    _, update = _update(PpoSettings(batch_size=48, minibatch_size=16, epochs=2))
    signals = ("reward", "cost/harm", "cost/bias")
    names = {
        "actor_loss",
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
        "gradient_norm/critic",
        "response_length",
        "truncation_rate",
        "advantage_mean",
        "advantage_std",
        "tokens",
        *(f"critic_loss/{signal}" for signal in signals),
        *(f"explained_variance/{signal}" for signal in signals),
    }
    assert set(update.metrics) == names
    assert all(np.isfinite(value) for value in update.metrics.values())


def test_the_learning_rate_warms_up_then_follows_its_schedule() -> None:
    cosine = [learning_rate(step, base=2.0, warmup_steps=2, total_steps=10, schedule="cosine") for step in range(11)]
    assert cosine[:3] == [1.0, 2.0, 2.0] and cosine[6] == pytest.approx(1.0) and cosine[10] == pytest.approx(0.0)
    assert learning_rate(9, base=2.0, warmup_steps=0, total_steps=10, schedule="constant") == 2.0


def test_stage_0_in_float32_leaves_clipping_to_the_engine_that_sees_the_norm() -> None:
    assert deepspeed_config(zero_stage=0, dtype="float32", offload=False, gradient_clip=1.0)["gradient_clipping"] == 0.0
    assert deepspeed_config(zero_stage=2, dtype="float32", offload=False, gradient_clip=1.0)["gradient_clipping"] == 1.0
