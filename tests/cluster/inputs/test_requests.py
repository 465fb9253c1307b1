"""Requests: seeds that depend on what a sample is, and prompts that fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.inputs.sampler import Sampler
from configs.exits import DataError
from learner.data.tokenizer import build_tokenizer
from learner.records import Prompt, SamplingSettings

TURNS = (
    {"role": "user", "content": "a b c"},
    {"role": "assistant", "content": "d"},
    {"role": "user", "content": "e f"},
)
PROMPT = Prompt("p1", TURNS, "test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer("abcdef", 16).save_pretrained(str(path))
    return path


def test_a_request_is_the_same_whenever_it_is_made(folder: Path) -> None:
    first, again = (Sampler(folder, 3, "ppo").request(PROMPT, "step-1/0", SamplingSettings()) for _ in range(2))
    assert first == again
    assert first.seed != Sampler(folder, 4, "ppo").request(PROMPT, "step-1/0", SamplingSettings()).seed
    assert first.seed != Sampler(folder, 3, "pairs").request(PROMPT, "step-1/0", SamplingSettings()).seed


def test_the_limit_cuts_turns_at_the_start_and_the_reference_key_cuts_the_end(folder: Path) -> None:
    whole = Sampler(folder, 0, "ppo", max_prompt_tokens=12).token_ids(PROMPT)
    assert len(whole) == 12
    assert Sampler(folder, 0, "ppo").token_ids(PROMPT) == whole  # no limit
    short = Sampler(folder, 0, "ppo", max_prompt_tokens=6).token_ids(PROMPT)
    assert short == Sampler(folder, 0, "ppo").token_ids(Prompt("p2", TURNS[2:], "test"))
    right = Sampler(folder, 0, "ppo", max_prompt_tokens=6, truncate_right=True).token_ids(PROMPT)
    assert right == whole[:6]


def test_what_cannot_fit_is_named(folder: Path) -> None:
    with pytest.raises(DataError, match="prompt p1"):
        Sampler(folder, 0, "ppo", max_prompt_tokens=4).token_ids(PROMPT)
