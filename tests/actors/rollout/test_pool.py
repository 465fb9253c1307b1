"""Dispatch and judgement of the pool, without Ray."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.rollout.dispatch import Dispatch, DuplicateRequest
from actors.rollout.scored_sample import overlap_efficiency, scored_sample
from actors.scoring.group import roles_of
from actors.scoring.model_scorer import ScoreMeta, ScorerModels, find_faults
from learner.records import GenerationRequest, RolloutMeta, SamplingSettings


def requests(count: int) -> list[GenerationRequest]:
    return [
        GenerationRequest(f"r{index:04d}", f"p{index % 7}", (2, 3), index, SamplingSettings()) for index in range(count)
    ]


def meta(request: GenerationRequest, generator: str = "g0") -> RolloutMeta:
    return RolloutMeta(request.request_id, request.prompt_id, 2, 5, "stop", 0, generator)


@given(
    count=st.integers(0, 60),
    generators=st.integers(1, 4),
    wave_size=st.integers(1, 40),
    deterministic=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_every_request_is_delivered_exactly_once_whatever_dies(
    count: int, generators: int, wave_size: int, deterministic: bool, seed: int
) -> None:
    names = [f"g{index}" for index in range(generators)]
    rng = random.Random(seed)
    dispatch = Dispatch(requests(count), names, wave_size=wave_size, deterministic=deterministic)
    running: dict[str, list[GenerationRequest]] = {}
    late: list[list[GenerationRequest]] = []
    delivered: list[str] = []

    def deliver(samples: list[GenerationRequest]) -> None:
        metas = [meta(one) for one in samples]
        delivered.extend(metas[row].request_id for row in dispatch.deliver(metas))

    for _ in range(10_000):
        if dispatch.done:
            break
        for name in names:
            if name not in running:
                wave = dispatch.next_wave(name, sharers=generators)
                assert len(wave) <= wave_size
                if wave:
                    running[name] = wave
        assert running, "requests are left and nobody draws them"
        name = rng.choice(sorted(running))
        wave = running.pop(name)
        done = rng.randint(0, len(wave))
        event = rng.random()
        if event < 0.2:  # dies after some samples; one more chunk of it may arrive late
            deliver(wave[:done])
            late.append(wave[: done + 1])
            dispatch.lost(name)
        elif event < 0.3:  # the call ends early
            deliver(wave[:done])
            dispatch.finished(name)
        else:
            deliver(wave)
            dispatch.finished(name)
        if late and rng.random() < 0.5:
            deliver(late.pop())
    assert sorted(delivered) == [one.request_id for one in requests(count)]
    assert dispatch.done and dispatch.remaining == 0


def test_samples_that_come_twice_or_were_never_asked_for_are_dropped_and_counted() -> None:
    dispatch = Dispatch(requests(3), ["g0"], wave_size=8, deterministic=False)
    metas = [meta(one) for one in requests(4)]
    assert dispatch.deliver(metas[:2]) == [0, 1]
    assert dispatch.deliver([metas[1], metas[2], metas[3]]) == [1]
    assert dispatch.duplicates == 2 and dispatch.done


def test_samples_lost_with_a_node_are_drawn_again() -> None:
    dispatch = Dispatch(requests(2), ["g0"], wave_size=8, deterministic=False)
    dispatch.next_wave("g0", sharers=1)
    dispatch.deliver([meta(one) for one in requests(2)])
    dispatch.finished("g0")
    dispatch.undeliver(["r0001"])
    assert not dispatch.done
    assert [one.request_id for one in dispatch.next_wave("g0", sharers=1)] == ["r0001"]


@pytest.mark.parametrize("deterministic", [False, True])
def test_what_waits_and_what_is_handed_out_again_is_counted(deterministic: bool) -> None:
    dispatch = Dispatch(requests(8), ["g0", "g1"], wave_size=4, deterministic=deterministic)
    assert (dispatch.waiting, dispatch.remaining, dispatch.retries) == (8, 8, 0)
    wave = dispatch.next_wave("g0", sharers=2)
    assert (dispatch.waiting, dispatch.remaining) == (8 - len(wave), 8)
    dispatch.deliver([meta(wave[0])])
    dispatch.lost("g0")
    assert (dispatch.waiting, dispatch.remaining, dispatch.retries) == (7, 7, len(wave) - 1)


def test_two_requests_with_one_id_are_refused() -> None:
    with pytest.raises(DuplicateRequest):
        Dispatch([*requests(2), *requests(1)], ["g0"], wave_size=8, deterministic=False)


def test_two_idle_generators_share_a_batch_evenly() -> None:
    dispatch = Dispatch(requests(128), ["g0", "g1"], wave_size=256, deterministic=False)
    assert [len(dispatch.next_wave(name, sharers=2)) for name in ("g0", "g1")] == [64, 64]


def test_deterministic_waves_depend_on_the_requests_only() -> None:
    def waves(order: list[GenerationRequest], asking: list[str]) -> dict[str, list[list[str]]]:
        dispatch = Dispatch(order, ["g0", "g1"], wave_size=10, deterministic=True)
        out: dict[str, list[list[str]]] = {"g0": [], "g1": []}
        for name in asking:
            wave = dispatch.next_wave(name, sharers=1)
            if wave:
                out[name].append([one.request_id for one in wave])
                dispatch.deliver([meta(one) for one in wave])
                dispatch.finished(name)
        assert dispatch.done
        return out

    plain = requests(50)
    shuffled = random.Random(1).sample(plain, len(plain))
    assert waves(plain, ["g0", "g1"] * 4) == waves(shuffled, ["g1"] * 4 + ["g0"] * 4)
    drawn = waves(plain, ["g0", "g1"] * 4)
    prompts = [
        int(request_id[1:]) % 7 for wave in zip(*drawn.values(), strict=True) for ids in wave for request_id in ids
    ]
    assert prompts == sorted(prompts)


MODELS = ScorerModels({"reward": Path("r"), "cost/harm": Path("c")}, Path("sft"), 0.7)


def test_colocated_models_are_one_role_and_others_one_each() -> None:
    assert roles_of(MODELS, colocate=True) == {"all": MODELS}
    apart = roles_of(MODELS, colocate=False)
    assert list(apart) == ["reward", "cost-harm", "reference"]
    assert dict(apart["cost-harm"].signals) == {"cost/harm": Path("c")} and apart["cost-harm"].reference is None
    assert not apart["reference"].signals and apart["reference"].temperature == 0.7


def score_meta(faults: dict[str, str] | None = None, **scores: float) -> ScoreMeta:
    named = {name.replace("_", "/"): (value,) for name, value in scores.items()}
    return ScoreMeta(("r0000",), named, faults or {}, 0.1, 10)


def test_a_row_needs_every_score_to_be_learned_from() -> None:
    rollout = meta(requests(1)[0])
    signals = {"reward", "cost/harm"}
    sample, _ = scored_sample(rollout, 0, [score_meta(reward=1.5), score_meta(cost_harm=-2.0)], signals)
    assert sample is not None and sample.reward == 1.5 and dict(sample.costs) == {"harm": -2.0}
    assert scored_sample(rollout, 0, [score_meta(reward=1.5)], signals) == (None, "no score: cost/harm")
    broken = score_meta({"r0000": "not finite: cost/harm"}, cost_harm=float("nan"))
    assert scored_sample(rollout, 0, [score_meta(reward=1.5), broken], signals) == (None, "not finite: cost/harm")
    other = ScoreMeta(("r0009",), {"reward": (1.0,)}, {}, 0.1, 10)
    assert scored_sample(rollout, 0, [other], {"reward"})[0] is None


def test_what_is_neither_reward_nor_cost_is_watched_and_changes_neither() -> None:
    rollout = meta(requests(1)[0])
    whole = ScoreMeta(
        ("r0000",), {"reward": (1.5,), "reward_test": (0.5,), "cost/harm": (-2.0,)}, {}, 0.1, 10, {"reward": (0.25,)}
    )
    sample, _ = scored_sample(rollout, 0, [whole], {"reward", "reward_test", "cost/harm"})
    assert sample is not None and sample.reward == 1.5 and dict(sample.costs) == {"harm": -2.0}
    assert dict(sample.watched) == {"reward_test": 0.5, "spread/reward": 0.25}
    plain, _ = scored_sample(rollout, 0, [score_meta(reward=1.5)], {"reward"})
    assert plain is not None and dict(plain.watched) == {}


def test_a_score_or_reference_that_is_not_finite_is_a_fault() -> None:
    faults = find_faults(
        ["a", "b", "c"],
        {"reward": np.array([1.0, np.nan, 1.0]), "cost/harm": np.array([1.0, np.inf, 1.0])},
        [np.zeros(2), np.zeros(2), np.array([0.0, np.nan])],
    )
    assert faults == {"b": "not finite: reward, cost/harm", "c": "not finite: reference log-probs"}


def test_overlap_efficiency_is_the_share_of_scoring_hidden_behind_generation() -> None:
    assert overlap_efficiency(10.0, 10.0, 4.0) == 1.0
    assert overlap_efficiency(14.0, 10.0, 4.0) == 0.0
    assert overlap_efficiency(11.0, 10.0, 4.0) == pytest.approx(0.75)
    assert overlap_efficiency(11.0, 10.0, 0.0) == 1.0
