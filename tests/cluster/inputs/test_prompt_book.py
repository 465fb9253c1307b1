"""The prompts of a run on data, by purpose."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.inputs.file_prompts import PromptBook, read_prompts
from configs.exits import DataError
from learner.data.splits import CERTIFICATE, PURPOSES, SELECTION, TRAIN
from learner.data.training_sets import PROMPTS


@pytest.fixture
def book(tmp_path: Path) -> PromptBook:
    return PromptBook(write(tmp_path / "prompts.parquet", 50))


def write(path: Path, rows: int) -> Path:
    purposes = [PURPOSES[number % 5] if number < 25 else TRAIN for number in range(rows)]
    made = [
        {
            "prompt_id": f"p{number}",
            "messages": [{"role": "user", "content": f"question {number}"}],
            "tags": ["even" if number % 2 == 0 else "odd"],
            "category": None,
            "purpose": purpose,
            "tokens": 3,
        }
        for number, purpose in enumerate(purposes)
    ]
    pq.write_table(pa.Table.from_pylist(made, PROMPTS), path)
    return path


def source_ids(prompts) -> list[str]:
    return [prompt.attributes["source_id"] for prompt in prompts]


def test_the_loop_asks_every_training_prompt_before_any_again(book: PromptBook) -> None:
    prompts = book.loop(n=70, seed=0, weights={})
    assert [prompt.prompt_id for prompt in prompts[:2]] == ["ppo-000000", "ppo-000001"]
    assert len({prompt.prompt_id for prompt in prompts}) == 70
    assert {prompt.attributes["purpose"] for prompt in prompts} == {TRAIN}
    asked = Counter(source_ids(prompts))
    assert len(asked) == 30 and set(asked.values()) == {2, 3}
    assert source_ids(prompts[:30]) != source_ids(prompts[30:60])
    assert source_ids(book.loop(n=70, seed=0, weights={})) == source_ids(prompts)
    assert source_ids(book.loop(n=70, seed=1, weights={})) != source_ids(prompts)


def test_weights_are_shares_by_tag(book: PromptBook) -> None:
    prompts = book.loop(n=1000, seed=0, weights={"even": 3, "odd": 1, "absent": 9})
    even = sum("even" in prompt.tags for prompt in prompts)
    assert 700 < even < 800


def test_judged_prompts_are_of_their_purpose_and_subset_and_different(book: PromptBook) -> None:
    prompts = book.judged(SELECTION, n=100, seed=0, prefix="selection", subset=["odd"])
    assert prompts and all(p.attributes["purpose"] == SELECTION and "odd" in p.tags for p in prompts)
    assert len(set(source_ids(prompts))) == len(prompts)
    everyone = {
        each
        for purpose in (SELECTION, CERTIFICATE)
        for each in source_ids(book.judged(purpose, n=9, seed=0, prefix="x"))
    }
    assert len(everyone) == 10, "purposes are disjoint"


def test_too_little_is_an_error_that_says_what_to_give(book: PromptBook) -> None:
    with pytest.raises(
        DataError, match=r"no prompt with a tag of nothing is kept for certificate.*splits\.certificate"
    ):
        book.judged(CERTIFICATE, n=3, seed=0, prefix="x", subset=["nothing"])


def test_a_set_for_evaluation_is_taken_whole(tmp_path: Path) -> None:
    prompts = read_prompts(write(tmp_path / "xs.parquet", 20), n=12, seed=0, prefix="xstest")
    assert len(set(source_ids(prompts))) == 12 and prompts[0].prompt_id == "xstest-000000"
    assert len(read_prompts(tmp_path / "xs.parquet", n=99, seed=0, prefix="xstest")) == 20
