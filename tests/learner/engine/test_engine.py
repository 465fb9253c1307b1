"""The DeepSpeed engine in this process, a group of one: every ZeRO stage stops alike, and bfloat16 gives exact log-probs."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM

from configs.schema.ppo import PpoSettings
from learner.algorithms.update import Critic, PolicyLearner, update_policy
from learner.engine.deepspeed_engine import DeepSpeedTrainEngine, NonFiniteUpdate, init_process_group
from learner.models.modules import ResponseLogprobs, forward_response_logprobs
from learner.records import SignalTerms
from tests.learner.tiny_learner import made_up_batch, tiny_config, tiny_learner

TERMS = SignalTerms({"harm": 1.5, "bias": 0.7}, {"harm": {"slope": 2.0, "intercept": 0.1}, "bias": {}})
PPO = PpoSettings(batch_size=16, minibatch_size=16, epochs=1)


@pytest.fixture(scope="module", autouse=True)
def _group_of_one() -> Iterator[None]:
    """torch.distributed with this process alone."""
    before = {name: os.environ.get(name) for name in ("LOCAL_RANK", "DS_ACCELERATOR")}
    os.environ |= {"LOCAL_RANK": "0", "DS_ACCELERATOR": "cpu"}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    init_process_group(rank=0, world_size=1, address="127.0.0.1", port=port, backend="gloo", timeout_seconds=30)
    yield
    torch.distributed.destroy_process_group()
    for name, value in before.items():
        if value is None:
            os.environ.pop(name)
        else:
            os.environ[name] = value


def _engine(module: torch.nn.Module, stage: int, dtype: str = "float32") -> DeepSpeedTrainEngine:
    return DeepSpeedTrainEngine(module, learning_rate=1e-3, gradient_clip=1.0, zero_stage=stage, dtype=dtype)


@pytest.fixture
def learner(request: pytest.FixtureRequest) -> Iterator[PolicyLearner]:
    """The tiny learner on real engines of the ZeRO stage (and dtype) that the test names."""
    stage, dtype = request.param
    plain = tiny_learner(PPO)

    engines = [_engine(one.module, stage, dtype) for one in (plain.actor, *(critic.engine for critic in plain.critics))]  # type: ignore[attr-defined]
    critics = tuple(Critic(one, old.signals) for one, old in zip(engines[1:], plain.critics, strict=True))
    yield replace(plain, actor=engines[0], critics=critics)
    for one in engines:
        one.close()


def _weights(learner: PolicyLearner) -> torch.Tensor:
    engines = [learner.actor, *(critic.engine for critic in learner.critics)]
    return torch.cat(
        [t.flatten().clone() for one in engines for group in one.gathered_parameters(2**20) for _, t in group]
    )


def _poison(engine: DeepSpeedTrainEngine, value: float) -> None:
    """Make the engine's next gradient this value in one element, with losses and outputs that stay finite."""
    honest = engine.forward

    def forward(*inputs: torch.Tensor) -> torch.Tensor:
        output = honest(*inputs)
        if output.requires_grad:
            output.register_hook(lambda gradient: torch.full_like(gradient, value))
        return output

    engine.forward = forward  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("learner", "value"),
    [((stage, "float32"), 1e30 if stage == 1 else float("nan")) for stage in range(4)],
    indirect=["learner"],
)
def test_a_critics_gradient_that_is_not_finite_leaves_actor_and_critics_bit_identical(
    learner: PolicyLearner, value: float
) -> None:
    before = _weights(learner)
    _poison(learner.critics[-1].engine, value)  # type: ignore[arg-type]
    samples = made_up_batch(16).all_samples()
    with pytest.raises(NonFiniteUpdate, match=r"gradient of request r00.*before the optimiser moved"):
        update_policy(learner, samples, TERMS, step=1)
    assert torch.equal(_weights(learner), before)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_the_gradients_bound_is_above_its_norm_and_starts_anew_with_every_step(stage: int) -> None:
    engine = _engine(tiny_learner(PPO).actor.module, stage)  # type: ignore[attr-defined]
    samples = made_up_batch(16).all_samples()
    norms = []
    for _ in range(2):
        for _ in range(2):
            engine.backward(
                engine.forward(samples.input_ids, samples.prompt_lengths, samples.response_lengths, 1.0).sum()
            )
        bound = engine.gradient_bound()
        norms.append(engine.step(1e-3))
        assert 0.0 < norms[-1] <= bound < 20 * norms[-1] and engine.gradient_bound() == 0.0
    assert norms[0] != norms[1]
    engine.close()


@pytest.mark.parametrize("learner", [(3, "bfloat16")], indirect=True)
def test_bfloat16_weights_learn_with_float32_logits_under_zero_3(learner: PolicyLearner) -> None:
    before = _weights(learner)
    update = update_policy(learner, made_up_batch(16).all_samples(), TERMS, step=1)
    logprobs = update.experience.proximal_logprobs[update.experience.mask]
    assert not torch.equal(logprobs, logprobs.bfloat16().float())  # not rounded to what bfloat16 can hold
    assert not torch.equal(_weights(learner), before)


def test_logits_of_a_bfloat16_model_are_not_rounded_to_bfloat16() -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(tiny_config()).eval()
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(30.0)  # logits of tens, where bfloat16 steps are wide
    model.bfloat16()
    ids, prompt, response = torch.randint(3, 40, (8, 20)), torch.full((8,), 8), torch.full((8,), 12)
    with torch.no_grad():
        hidden = model.base_model(input_ids=ids).last_hidden_state[:, 7:19]
        exact = hidden.double() @ model.lm_head.weight.double().T
        wanted = torch.log_softmax(exact, dim=-1).gather(-1, ids[:, 8:, None])[..., 0]
        rounded = torch.log_softmax(model.lm_head(hidden).float(), dim=-1).gather(-1, ids[:, 8:, None])[..., 0]
        found = forward_response_logprobs(model, ids, prompt, response)
        float32 = ResponseLogprobs(model.float())(ids, prompt, response)
    assert float((found - wanted).abs().max()) < 1e-4 < 0.02 < float((rounded - wanted).abs().max())
    assert found.dtype == float32.dtype == torch.float32
