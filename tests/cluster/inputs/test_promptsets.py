"""Splits: every conversation has one purpose, and nothing is judged on what trained it."""

from __future__ import annotations

from itertools import combinations

import pytest

from actors.crowd.world_reader import load_world
from cluster.inputs.sandbox_prompts import (
    CERTIFICATE,
    LABELLED,
    PURPOSES,
    SELECTION,
    TRAIN,
    Splits,
    judged_prompts,
    labelled_prompts,
    loop_prompts,
)
from configs.exits import DataError
from configs.schema.supervised import SplitSettings

WORLD = load_world(None)
WEIGHTS = {"harmful": 25.0, "benign": 30.0, "lookalike": 22.0, "dual_use": 18.0, "ambiguous": 5.0}


@pytest.fixture(params=["conversation", "task"])
def splits(request: pytest.FixtureRequest) -> Splits:
    return Splits(WORLD, SplitSettings(by=request.param))


def unit(splits: Splits, attributes: dict[str, str]) -> str:
    task = attributes["task_id"]
    return task if splits.settings.by == "task" else f"{task}/{attributes['form']}"


def drawn(splits: Splits) -> dict[str, set[str]]:
    prompts = [
        *labelled_prompts(splits, n=1500, seed=1, kind_weights=WEIGHTS),
        *loop_prompts(splits, n=2000, seed=2, kind_weights=WEIGHTS),
        *judged_prompts(splits, SELECTION, n=300, seed=5, prefix="selection", kind_weights=WEIGHTS),
        *judged_prompts(splits, CERTIFICATE, n=600, seed=4, prefix="cert", subset=["harmful", "dual_use"]),
    ]
    found: dict[str, set[str]] = {purpose: set() for purpose in PURPOSES}
    for prompt in prompts:
        assert prompt.attributes["purpose"] == splits.purpose(prompt)
        found[prompt.attributes["purpose"]].add(unit(splits, dict(prompt.attributes)))
    return found


def test_prompts_of_two_purposes_share_no_unit(splits: Splits) -> None:
    found = drawn(splits)
    assert all(found.values())
    for one, other in combinations(PURPOSES, 2):
        assert not found[one] & found[other], (one, other)


def test_the_manifest_holds_shares_close_to_those_asked(splits: Splits) -> None:
    document = splits.document()
    assert document["disjoint"] is True and document["by"] == splits.settings.by
    counts = {purpose: each["conversations"] for purpose, each in document["purposes"].items()}
    total = sum(counts.values())
    for purpose in PURPOSES[1:]:
        assert counts[purpose] / total == pytest.approx(getattr(splits.settings, purpose), abs=0.03)
    assert len({each["digest"] for each in document["purposes"].values()}) == len(PURPOSES)


def test_no_certificate_conversation_is_worded_as_one_that_trains() -> None:
    splits = Splits(WORLD, SplitSettings())
    trained = {
        tuple(message["content"] for message in prompt.messages)
        for prompt in [
            *loop_prompts(splits, n=6000, seed=2, kind_weights=WEIGHTS),
            *labelled_prompts(splits, n=3000, seed=1, kind_weights=WEIGHTS),
        ]
    }
    judged = judged_prompts(splits, CERTIFICATE, n=600, seed=4, prefix="cert", subset=["harmful", "dual_use"])
    assert not [each for each in judged if tuple(message["content"] for message in each.messages) in trained]


def test_the_loop_draws_from_train_and_labels_from_three() -> None:
    splits = Splits(WORLD, SplitSettings())
    loop = loop_prompts(splits, n=500, seed=2, kind_weights=WEIGHTS)
    labelled = labelled_prompts(splits, n=1500, seed=1, kind_weights=WEIGHTS)
    assert {each.attributes["purpose"] for each in loop} == {TRAIN}
    assert {each.attributes["purpose"] for each in labelled} == LABELLED
    again = loop_prompts(splits, n=500, seed=2, kind_weights=WEIGHTS)
    assert [each.messages for each in loop] == [each.messages for each in again]


def test_a_subset_counts_its_conversations() -> None:
    splits = Splits(WORLD, SplitSettings())
    harmful = splits.conversations(CERTIFICATE, ["harmful"])
    assert 0 < harmful < splits.conversations(CERTIFICATE, ["harmful", "dual_use"])
    assert splits.conversations(CERTIFICATE, ["attack"]) < splits.conversations(CERTIFICATE, [])


def test_a_split_without_conversations_says_what_to_do() -> None:
    splits = Splits(WORLD, SplitSettings(by="task", certificate=0.001))
    with pytest.raises(DataError, match="larger share in splits"):
        judged_prompts(splits, CERTIFICATE, n=10, seed=0, prefix="cert", subset=["harmful"])
