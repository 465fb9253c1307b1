"""Best-of-k on a real vLLM engine and a real scorer, and the judging of what was chosen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.crowd.prompts import sandbox_prompts
from actors.crowd.vocabulary import world_words
from actors.crowd.world_reader import load_world
from actors.judging.by_gold.samples import read_samples
from actors.judging.by_gold.task import judge_samples
from cluster.inputs.sampler import Sampler
from cluster.resources.engines import Engines
from cluster.run_folder.manifest import Manifest
from cluster.run_folder.status import StatusWriter
from cluster.runs.answers import draw as answers
from cluster.runs.answers.draw import Candidate, choose_best, draw_answers, excess_of
from cluster.runs.context import RunContext
from cluster.runs.loop.constraints import in_subset
from configs.layout import RunLayout
from configs.schema.run import RunSettings
from configs.schema.supervised import ModelSettings
from learner.deadlines import fetch_result
from learner.models.modules import build_tokenizer, new_policy, new_score_model_from, save_model
from learner.records import Prompt, SamplingSettings

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.system, pytest.mark.timeout(300)]

K = 3
MODEL = ModelSettings(hidden_size=64, layers=1, heads=2, intermediate_size=64, max_length=96)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunContext]:
    """A run whose untrained SFT policy and score models are there, and nothing else."""
    import torch

    settings = RunSettings.model_validate(
        {
            "name": "best",
            "algorithm": "best_of_k",
            "best_of_k": {"k": K},
            "model": MODEL.model_dump(),
            "constraints": {"harm": {"measure": "rate", "limit": 0.5, "subset": ["harmful"]}},
            "ppo": {"max_response_tokens": 12},
            "resources": {"generators": {"count": 1, "kv_cache_bytes": 64 * 2**20}},
        }
    )
    layout, world = RunLayout(tmp_path_factory.mktemp("runs") / "best"), load_world(None)
    tokenizer = build_tokenizer(world_words(world), MODEL.max_length)
    tokenizer.save_pretrained(str(layout.data / "tokenizer"))
    save_model(new_policy(MODEL, tokenizer, seed=0), tokenizer, layout.sft)
    for seed, path in enumerate((layout.reward(1), layout.cost(1, "harm"))):
        score = new_score_model_from(layout.sft)
        torch.manual_seed(seed)
        torch.nn.init.normal_(score.score.weight, std=0.5)
        save_model(score, tokenizer, path)
    engines = Engines(settings.resources, MODEL.max_length, layout.root / "ray_train", deterministic=True)
    status = StatusWriter(layout.status, run="best", stages=["evaluate"])
    try:
        yield RunContext(settings, layout, Manifest(layout.manifest), world, status, engines)
    finally:
        engines.close()


@pytest.fixture(scope="module")
def prompts(context: RunContext) -> list[Prompt]:
    return sandbox_prompts(context.world, n=7, seed=0, task_splits=["seen"], form_splits=["seen"], prefix="p")


def judge(context: RunContext, found: answers.Answers, prompts: list[Prompt], path: Path, **options: Any) -> int:
    call = judge_samples.remote(
        None,
        "policy",
        prompts,
        str(context.tokenizer_path / "tokenizer.json"),
        str(path),
        found.keep,
        *found.chunks,
        **options,
    )
    judged: int = fetch_result(call, deadline_seconds=60, operation="judge_samples")
    return judged


def best_by_hand(context: RunContext, prompts: list[Prompt]) -> frozenset[str]:
    """The same requests drawn and scored in one batch, and chosen one prompt at a time."""
    constraint = context.settings.constraints["harm"]
    sampler = Sampler(context.tokenizer_path, context.settings.seed, "evaluate-policy")
    sampling = SamplingSettings(1.0, 12)
    requests = [
        sampler.request(prompt, f"policy/{prompt.prompt_id}/{index}", sampling)
        for prompt in prompts
        for index in range(K)
    ]
    samples = [row.sample for row in context.engines.scoring_pool().collect(requests).scored]
    chosen = []
    for prompt in prompts:
        own = [sample for sample in samples if sample.rollout.prompt_id == prompt.prompt_id]
        assert len(own) == K
        covered = in_subset(prompt, constraint)
        chosen.append(
            choose_best(
                [
                    Candidate(
                        sample.rollout.request_id,
                        sample.reward,
                        (excess_of(sample.costs["harm"], constraint, None),) if covered else (),
                    )
                    for sample in own
                ]
            )
        )
    return frozenset(each.request_id for each in chosen)


def test_best_of_k_keeps_one_chosen_answer_per_prompt_whatever_the_waves(
    context: RunContext, prompts: list[Prompt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "WAVE_SAMPLES", 2 * K)  # four waves
    found = draw_answers(context, "policy", context.layout.sft, prompts, stage="evaluate")
    assert len(found.chunks) == 4 and found.missing == 0
    assert found.keep == best_by_hand(context, prompts)
    assert judge(context, found, prompts, tmp_path / "policy.parquet") == len(prompts)
    samples = read_samples(tmp_path / "policy.parquet")
    assert [sample.prompt_id for sample in samples] == sorted(prompt.prompt_id for prompt in prompts)
    assert {sample.crowd_unsafe for sample in samples} == {None}


def test_a_plain_model_answers_once_and_the_crowd_may_be_asked(
    context: RunContext, prompts: list[Prompt], tmp_path: Path
) -> None:
    found = draw_answers(context, "sft", context.layout.sft, prompts, stage="evaluate")
    assert found.keep is None and found.missing == 0
    crowd = (context.settings.preferences.crowd.model_dump(mode="json") | {"safety_error_rate": 0.0}, 1)
    assert judge(context, found, prompts, tmp_path / "sft.parquet", crowd=crowd) == len(prompts)
    samples = read_samples(tmp_path / "sft.parquet")
    assert [sample.crowd_unsafe for sample in samples] == [sample.gold_unsafe for sample in samples]
    only = answers.Answers(found.chunks * 2, frozenset({f"sft/{prompts[0].prompt_id}"}))
    assert judge(context, only, prompts, tmp_path / "one.parquet") == 1, "neither the others nor the same one twice"
