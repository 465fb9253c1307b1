"""Training sets from records, loaded with the readers of `learner.supervised.sft` and `learner.supervised.preference` themselves."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from transformers import LlamaConfig

from configs.exits import DataError
from learner.data import row_groups
from learner.data.bpe import train_byte_level_bpe
from learner.data.formats import read_source
from learner.data.records import Finding, LabelledResponse, Parsed, PreferencePair, PromptOnly, Record
from learner.data.set_labels import safety_order
from learner.data.splits import PURPOSES, Shares, half_of, purpose_of
from learner.data.tokenise import TokenLimits, UnusableRow
from learner.data.training_sets import write_cost_pairs, write_demonstrations, write_prompts, write_reward_pairs
from learner.supervised.preference import Pairs
from learner.supervised.score_models.quality import judge
from learner.supervised.sft import Demonstrations
from tests.paths import SHARED

FILE = SHARED / "data" / "hh-rlhf" / "harmless-base-1500.jsonl.gz"
SHARES = Shares(holdout=0.15, calibration=0.15, selection=0.1, certificate=0.1)
LIMITS = TokenLimits(max_length=96, max_prompt=64)
TOKENIZER = train_byte_level_bpe(["Is it so? It is. No."], vocab_size=300, max_length=96, template="papers")
CONFIG = LlamaConfig(vocab_size=len(TOKENIZER), max_position_embeddings=96)
HOW: dict[str, Any] = {"limits": LIMITS, "shares": SHARES}


def asked(number: int, text: str = "Is it so?") -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": f"{text} {number}"},)


def pair(number: int, **changes: Any) -> PreferencePair:
    return PreferencePair(
        **({"prompt": asked(number), "responses": ("It is.", "No."), "better": 1, "safer": 0} | changes)
    )


def parsed(*records: Record | None) -> Iterator[Parsed]:
    for row, record in enumerate(records, 1):
        findings = () if record is not None else (Finding("bad_json", "error", "the line is no JSON"),)
        yield Parsed("made.jsonl", row, record, findings, "")


def many(count: int = 200, **changes: Any) -> list[PreferencePair]:
    return [pair(number, **changes) for number in range(count)]


def table(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


def text(ids: list[int]) -> str:
    return TOKENIZER.decode(ids)


# --- demonstrations ---


def test_demonstrations_are_the_preferred_responses_of_two_purposes(tmp_path: Path) -> None:
    path = tmp_path / "sft.parquet"
    records = many()
    report = write_demonstrations(parsed(*records, None), TOKENIZER, path, choose="better", **HOW)
    purposes = [purpose_of(record.prompt, SHARES) for record in records]
    kept = [
        (record, purpose) for record, purpose in zip(records, purposes, strict=True) if purpose in ("train", "holdout")
    ]
    rows = table(path)
    assert [row["holdout"] for row in rows] == [purpose == "holdout" for _record, purpose in kept]
    assert text(rows[0]["input_ids"]).endswith("ASSISTANT:No.<eos>")
    assert {len(row["input_ids"]) - row["prompt_length"] for row in rows} == {
        len(TOKENIZER("No.", add_special_tokens=False)["input_ids"]) + 1
    }
    assert (report.rows, report.quarantined, report.written) == (201, 1, len(kept))
    assert report.left_out == {
        f"kept_for_{name}": purposes.count(name) for name in ("calibration", "certificate", "selection")
    }
    assert report.purposes == {name: purposes.count(name) for name in ("holdout", "train")} and report.cut == 0
    loaded = Demonstrations(path, CONFIG)
    assert loaded.holdout.sum() == report.purposes["holdout"] and len(loaded.rows) == len(kept)


@pytest.mark.parametrize(
    ("record", "choose", "shown"),
    [
        (pair(0), "safer", ["It is."]),
        (pair(0, safe=(False, True)), "safe", ["No."]),
        (pair(0, safe=(True, True)), "safe", ["No."]),  # the better one of two safe
        (pair(0, safe=(True, True), better=None), "safe", ["It is."]),
        (pair(0, safe=(True, True), better=None, safer=None), "safe", ["It is.", "No."]),
        (LabelledResponse(asked(0), "It is.", safe=True), "better", ["It is."]),
    ],
)
def test_which_response_is_shown(record: Record, choose: Any, shown: list[str], tmp_path: Path) -> None:
    path = tmp_path / "sft.parquet"
    everything = Shares(holdout=0.0, calibration=0.0)
    write_demonstrations(parsed(record), TOKENIZER, path, limits=LIMITS, shares=everything, choose=choose)
    assert [text(row["input_ids"][row["prompt_length"] :]) for row in table(path)] == [f"{each}<eos>" for each in shown]


@pytest.mark.parametrize(
    ("record", "choose", "kind"),
    [
        (pair(0, better=None), "better", "unranked"),
        (pair(0, safe=(False, None)), "safe", "unsafe"),
        (LabelledResponse(asked(0), "It is.", safe=False), "safe", "unsafe"),
        (PromptOnly(asked(0)), "safe", "no_response"),
        (pair(0, responses=("It is.", " ")), "better", "empty_response"),
        (pair(0, responses=("It is.", "a<eos>b")), "better", "special_token"),
        (pair(0, prompt=asked(0, "so? " * 99)), "better", "too_long_prompt"),
    ],
)
def test_what_cannot_be_shown_is_left_out_with_its_reason_and_row(
    record: Record, choose: Any, kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "sft.parquet"
    everything = Shares(holdout=0.0, calibration=0.0)
    good = LabelledResponse(asked(1), "It is.", safe=True)
    report = write_demonstrations(
        parsed(good, record), TOKENIZER, path, limits=LIMITS, shares=everything, choose=choose
    )
    assert report.left_out == {kind: 1} and report.written == 1
    assert report.examples[kind].startswith("made.jsonl: row 2: ")


def test_long_responses_are_cut_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "sft.parquet"
    report = write_demonstrations(parsed(*many(40, responses=("No.", "so? " * 60))), TOKENIZER, path, **HOW)
    assert report.cut == report.written > 0
    assert {len(row["input_ids"]) for row in table(path)} == {96}
    assert not any(TOKENIZER.eos_token_id in row["input_ids"] for row in table(path))


# --- pairs ---


def test_reward_pairs_are_read_by_the_trainer(tmp_path: Path) -> None:
    path, records = tmp_path / "reward.parquet", many()
    report = write_reward_pairs(parsed(*records, PromptOnly(asked(0))), TOKENIZER, path, **HOW)
    assert report.left_out["not_a_pair"] == 1 and set(report.purposes) == {"train", "holdout", "calibration"}
    rows, kept = table(path), [each for each in records if purpose_of(each.prompt, SHARES) in report.purposes]
    assert [(row["split"], row["half"]) for row in rows] == [
        (purpose_of(e.prompt, SHARES), half_of(e.prompt)) for e in kept
    ]
    assert all(text(row["better_ids"]).endswith(":No.<eos>") for row in rows)
    assert all(text(row["worse_ids"]).endswith(":It is.<eos>") for row in rows)
    assert all(row["better_prompt_length"] == row["worse_prompt_length"] for row in rows)
    whole, half = Pairs(path, "reward", CONFIG), Pairs(path, "reward", CONFIG, half=1)
    assert 0 < half.labels.train.sum() < whole.labels.train.sum() == report.purposes["train"]
    assert len(whole.better) == report.written


def test_turns_are_those_of_the_whole_prompt_though_the_tokens_were_cut(tmp_path: Path) -> None:
    long = {"role": "assistant", "content": "so? " * 30}
    talks = [(*asked(number), long, *asked(number), long, *asked(number)) for number in range(40)]
    records = [*many(40), *(pair(0, prompt=talk, safe=(True, False)) for talk in talks)]
    for write, name in ((write_reward_pairs, "reward.parquet"), (write_cost_pairs, "cost.parquet")):
        write(parsed(*records), TOKENIZER, tmp_path / name, **HOW)
        assert [row["turns"] for row in table(tmp_path / name)] == [
            sum(turn["role"] == "user" for turn in each.prompt)
            for each in records
            if purpose_of(each.prompt, SHARES) in ("train", "holdout", "calibration")
        ]
    assert max(row["better_prompt_length"] for row in table(tmp_path / "reward.parquet")) <= LIMITS.max_prompt


def test_a_harmlessness_score_is_ranked_by_safer(tmp_path: Path) -> None:
    path = tmp_path / "reward.parquet"
    records = [*many(60), pair(99, safer=None)]
    report = write_reward_pairs(parsed(*records), TOKENIZER, path, ranking="safer", **HOW)
    assert all(text(row["better_ids"]).endswith(":It is.<eos>") for row in table(path))
    assert report.left_out["unranked"] == 1


def test_responses_that_are_the_same_within_their_room_are_left_out(tmp_path: Path) -> None:
    same = pair(0, responses=("so? " * 60 + "It is.", "so? " * 60 + "No."))
    report = write_reward_pairs(
        parsed(*many(), same, pair(0, responses=("No.", "No."))), TOKENIZER, tmp_path / "r.parquet", **HOW
    )
    purpose = purpose_of(same.prompt, SHARES)
    assert purpose in report.purposes, "choose another number for this test"
    assert (
        report.left_out["same_tokens"] == 2
        and "the same within the room that is left" in report.examples["same_tokens"]
    )


def test_cost_pairs_with_labels_are_read_by_the_trainer(tmp_path: Path) -> None:
    path = tmp_path / "cost.parquet"
    records = many(safe=(True, False))
    number = next(number for number in range(200) if purpose_of(pair(number).prompt, SHARES) == "train")
    report = write_cost_pairs(parsed(*records, pair(number, safer=1, safe=(True, False))), TOKENIZER, path, **HOW)
    assert report.left_out["contradictory_labels"] == 1
    rows = table(path)
    assert {(row["safer_sign"], row["less_safe_sign"], row["rank_weight"]) for row in rows} == {(-1, 1, 1.0)}
    assert all(text(row["better_ids"]).endswith(":It is.<eos>") for row in rows), "better is safer in a cost file"
    labels = Pairs(path, "cost", CONFIG).labels
    assert labels.with_sign(labels.calibration).sum() == 2 * report.purposes["calibration"]


def test_contradictory_pairs_leave_training_alone(tmp_path: Path) -> None:
    numbers = {purpose_of(pair(number).prompt, SHARES): number for number in range(200)}
    wrong = {
        purpose: pair(numbers[purpose], safer=1, safe=(True, False)) for purpose in ("train", "holdout", "calibration")
    }
    path = tmp_path / "cost.parquet"
    report = write_cost_pairs(parsed(*many(safe=(True, False)), *wrong.values()), TOKENIZER, path, **HOW)
    assert report.left_out["contradictory_labels"] == 1, "the one of split train"
    rows = [row for row in table(path) if row["safer_sign"] == 1]
    assert sorted(row["split"] for row in rows) == ["calibration", "holdout"]


def test_pairs_without_safety_labels_are_ranked_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "cost.parquet"
    write_cost_pairs(parsed(*many(better=None)), TOKENIZER, path, **HOW)
    labels = Pairs(path, "cost", CONFIG).labels
    assert not labels.signs.any() and (labels.rank_weights == 1).all()
    scores = np.random.default_rng(0).normal(size=(2, len(labels.train)))
    metrics, documents = judge("cost", labels, scores)
    assert metrics["calibrated"] == 0.0 and "pair_accuracy" in metrics and "sign_accuracy" not in metrics
    assert "both classes" in documents["training.json"]["calibration_refused"]


@pytest.mark.parametrize(
    ("labels", "categories", "order"),
    [
        ({"safer": 1}, (), (1, (0, 0), 1.0)),
        ({"safer": 1, "safe": (False, None)}, (), (1, (1, 0), 1.0)),
        ({"safer": 1, "safe": (False, False)}, (), (1, (1, 1), 1.0)),
        ({"safer": None, "safe": (False, True)}, (), (1, (1, -1), 1.0)),
        ({"safer": None, "safe": (True, True)}, (), (0, (-1, -1), 0.0)),
        ({"safer": None, "safe": (None, False)}, (), (0, (0, 1), 0.0)),
        ({"safer": 0, "safe": (False, False), "categories": (("theft",), ("insult",))}, ("theft",), (1, (1, -1), 1.0)),
        ({"safer": 0, "safe": (False, True), "categories": (("insult",), ())}, ("theft",), (0, (-1, -1), 0.0)),
    ],
)
def test_the_order_and_signs_of_a_pair(labels: dict[str, Any], categories: tuple[str, ...], order: tuple) -> None:
    assert safety_order(pair(0, **labels), categories) == order


@pytest.mark.parametrize(
    ("labels", "categories", "kind"),
    [
        ({"safer": None}, (), "no_safety_label"),
        ({"safer": 0, "safe": (False, None)}, ("theft",), "no_safety_label"),
        ({"safer": 0, "safe": (False, True)}, (), "contradictory_labels"),
    ],
)
def test_pairs_whose_safety_cannot_be_told_are_refused(
    labels: dict[str, Any], categories: tuple[str, ...], kind: str
) -> None:
    with pytest.raises(UnusableRow) as caught:
        safety_order(pair(0, **labels), categories)
    assert caught.value.kind == kind


# --- prompts ---


def test_every_different_prompt_is_written_once_with_its_purpose(tmp_path: Path) -> None:
    path = tmp_path / "prompts.parquet"
    talk = (*asked(1), {"role": "assistant", "content": "It is."}, *asked(2, "is  IT so?"))
    records = [
        PromptOnly(asked(1), category="homonyms", tags=("safe",), prompt_id="v1"),
        *many(80),  # asked(1) is among them
        pair(7, tags=("again",)),
        PromptOnly(talk, prompt_id="v2"),
        PromptOnly(asked(99), prompt_id="v1"),
    ]
    report = write_prompts(parsed(*records), TOKENIZER, path, **HOW)
    rows = table(path)
    assert report.left_out == {"repeated_id": 1, "repeated_prompt": 2} and len(rows) == report.written == 81
    assert rows[0] == {
        "prompt_id": "v1",
        "messages": [dict(turn) for turn in asked(1)],
        "tags": ["safe"],
        "category": "homonyms",
        "purpose": purpose_of(asked(1), SHARES),
        "tokens": rows[0]["tokens"],
    }
    ids = TOKENIZER.apply_chat_template(list(asked(1)), add_generation_prompt=True, return_dict=False)
    assert rows[0]["tokens"] == len(ids)
    assert rows[-1]["messages"] == [dict(turn) for turn in talk] and rows[-1]["category"] is None
    assert len({row["prompt_id"] for row in rows}) == 81 and {row["purpose"] for row in rows} == {*PURPOSES}
    assert {name: each["prompts"] for name, each in report.split["purposes"].items()} == report.purposes


# --- files ---


def test_groups_are_small_and_the_order_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_groups, "ROWS", 16)
    path, seen = tmp_path / "reward.parquet", []
    report = write_reward_pairs(parsed(*many()), TOKENIZER, path, progress=seen.append, **HOW)
    file = pq.ParquetFile(path)
    assert file.num_row_groups == -(-report.written // 16) and file.metadata.num_rows == report.written
    assert len(Pairs(path, "reward", CONFIG).better) == report.written
    assert seen[-1] == 200
    monkeypatch.setattr(row_groups, "VALUES", 1)
    write_reward_pairs(parsed(*many()), TOKENIZER, path, **HOW)
    assert pq.ParquetFile(path).num_row_groups == report.written


def test_a_source_that_fails_in_the_middle_leaves_the_old_file_and_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_groups, "ROWS", 4)
    path = tmp_path / "reward.parquet"
    write_reward_pairs(parsed(*many(50)), TOKENIZER, path, **HOW)
    before = path.read_bytes()

    def broken() -> Iterator[Parsed]:
        yield from parsed(*many())
        raise DataError("the hub went away")

    with pytest.raises(DataError, match="the hub went away"):
        write_reward_pairs(broken(), TOKENIZER, path, **HOW)
    assert path.read_bytes() == before and [each.name for each in tmp_path.iterdir()] == [path.name]


def test_a_source_without_a_usable_row_leaves_no_file_and_says_why(tmp_path: Path) -> None:
    path = tmp_path / "cost.parquet"
    with pytest.raises(
        DataError, match=r"cost\.parquet: none of 3 rows has a place in it; 2 because of: made\.jsonl: row 1: .*'safer'"
    ):
        write_cost_pairs(parsed(pair(0, safer=None), pair(1, safer=None), None), TOKENIZER, path, **HOW)
    with pytest.raises(DataError, match=r"none of 1 rows of the source can be read; see: steelyard data check"):
        write_cost_pairs(parsed(None), TOKENIZER, path, **HOW)
    assert not any(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "taken", tmp_path / "file" / "sft.parquet"):
        with pytest.raises(DataError, match=r"cannot be written \(.*\): make room, or give another place"):
            write_demonstrations(parsed(*many(30)), TOKENIZER, place, **HOW)
    assert {each.name for each in tmp_path.iterdir()} == {"taken", "file"}


@pytest.mark.skipif(not FILE.exists(), reason="the shared data are not there")
def test_real_rows_become_every_set(tmp_path: Path) -> None:
    rows = list(islice(read_source(str(FILE)), 200))
    records = [each.record for each in rows if isinstance(each.record, PreferencePair)]
    texts = [said for record in records for said in (*(turn["content"] for turn in record.prompt), *record.responses)]
    tokenizer = train_byte_level_bpe(texts, vocab_size=800, max_length=256, template="hh")
    how: dict[str, Any] = {"limits": TokenLimits(256, 160), "shares": SHARES}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=256)
    sft = write_demonstrations(rows, tokenizer, tmp_path / "sft.parquet", choose="safer", **how)
    cost = write_cost_pairs(rows, tokenizer, tmp_path / "cost.parquet", **how)
    prompts = write_prompts(rows, tokenizer, tmp_path / "prompts.parquet", **how)
    assert len(Demonstrations(tmp_path / "sft.parquet", config).rows) == sft.written > 100
    pairs = Pairs(tmp_path / "cost.parquet", "cost", config)
    assert not pairs.labels.signs.any() and len(pairs.better) == cost.written > 100
    for report in (sft, cost, prompts):
        assert report.rows == 200 and report.quarantined == 200 - len(records)
        assert report.written + sum(report.left_out.values()) == len(records)
    held = {row["prompt_id"] for row in table(tmp_path / "prompts.parquet") if row["purpose"] == "holdout"}
    assert len(held) == prompts.purposes["holdout"]
