"""One pass over rows: counts, repeats, leakage, balance and agreement, on made-up rows whose answers are known."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from learner.data.kinds import finding
from learner.data.quality.check import FIRST, Quality, QualityCheck, prompts_of
from learner.data.quality.repeats import Groups, text_key
from learner.data.records import LabelledResponse, Message, Parsed, PreferencePair, PromptOnly, Record, Vote


def prompt(*texts: str) -> tuple[Message, ...]:
    """Turns from a user turn on."""
    return tuple({"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts))


def pair(question: str, first: str, second: str, **labels: Any) -> PreferencePair:
    return PreferencePair(prompt(question), (first, second), **labels)


def parsed(records: Iterable[Record], file: str = "made-up.jsonl") -> list[Parsed]:
    return [Parsed(file, row, record, (), "…") for row, record in enumerate(records, start=1)]


def checked(rows: Iterable[Parsed | Record], against: Iterable[Record] | None = None, **options: Any) -> Quality:
    other = None if against is None else prompts_of(parsed(against))
    check = QualityCheck(against=other, **options)
    rows = list(rows)
    for each in rows if all(isinstance(row, Parsed) for row in rows) else parsed(rows):  # type: ignore[arg-type]
        check.add(each)  # type: ignore[arg-type]
    quality = check.finish()
    json.dumps(quality.document(), allow_nan=False)  # plain values, no nan
    return quality


def rows_of(quality: Quality) -> dict[str, list[int]]:
    return {tally.kind: [place.row for place in tally.places] for tally in quality.findings}


def test_rows_are_good_or_set_aside() -> None:
    bad = Parsed("a", 2, None, (finding("bad_json", "no JSON"),), "{")
    warned = Parsed("a", 3, pair("q", "x", "y"), (finding("repeated_role", "joined"),), "")
    broken = Parsed("a", 4, pair("q", "x", "y", safer=0, safe=(False, True)), (), "")
    quality = checked([Parsed("a", 1, pair("p", "x", "y"), (), ""), bad, warned, broken])
    assert (quality.rows, quality.ok_rows, quality.quarantined) == (4, 2, 2)
    assert rows_of(quality) == {"bad_json": [2], "contradictory_labels": [4], "repeated_role": [3]}
    assert quality.balance["records"] == {"pairs": 2, "responses": 0, "prompts": 0}
    assert quality.balance["files"] == [{"file": "a", "rows": 4, "quarantined": 2}]


def test_a_row_counts_once_for_a_kind_and_twenty_are_named() -> None:
    twice = (finding("role_word_in_answer", "turn 2"), finding("role_word_in_answer", "the answer"))
    quality = checked([Parsed("a", row, pair(f"q{row}", "x", "y"), twice, "") for row in range(1, 51)])
    (tally,) = quality.findings
    assert (tally.count, [place.row for place in tally.places]) == (50, list(range(1, FIRST + 1)))
    assert tally.example == "turn 2"


def test_nothing_at_all_is_an_error() -> None:
    (tally,) = checked([]).findings
    assert (tally.kind, tally.severity, tally.places) == ("no_rows", "error", [])


def test_repeated_and_swapped_pairs() -> None:
    rows = [
        pair("q", "x", "y", better=0),
        pair("q", "x", "z", better=0),
        pair("q", "x", "y", better=0),  # the same again
        pair("q", "y", "x", better=1),  # turned, and so ranked alike
        pair("q", "y", "x", better=0),  # turned, and ranked the other way round
        pair("Q ", "x", "y", better=0),  # another prompt to a pair, the same to a split
        pair("q", "x", "y"),  # without a ranking there is no conflict
    ]
    found = rows_of(checked(rows))
    assert found["duplicate_pair"] == [3, 7]
    assert found["swapped_pair"] == [4, 5]
    assert found["conflicting_ranking"] == [5]
    assert found["repeated_prompt"] == [2, 3, 4, 5, 6, 7]


def test_texts_do_not_run_together() -> None:
    assert text_key("ab", "c") != text_key("a", "bc")
    found = rows_of(checked([pair("q", "ab", "c"), pair("q", "a", "bc")]))
    assert "duplicate_pair" not in found


def test_the_same_answer_labelled_otherwise_in_a_pair() -> None:
    rows = [
        pair("q", "x", "y", safe=(True, False)),
        pair("q", "y", "x", safe=(False, True)),
        pair("q", "y", "x", safe=(True, True)),
    ]
    assert rows_of(checked(rows))["conflicting_safety"] == [3]


def test_leakage_by_prompt_and_by_opening() -> None:
    train = [
        PromptOnly(prompt("Hello  there")),
        PromptOnly(prompt("hello there", "Hi.", "And then?")),
        PromptOnly(prompt("Something else")),
    ]
    test = [PromptOnly(prompt("hello THERE")), PromptOnly(prompt("Nothing like it"))]
    quality = checked(train, against=test)
    assert rows_of(quality)["leaked_prompt"] == [1]
    assert quality.balance["leakage"] == {
        "rows": 1,
        "prompts": 1,
        "against_rows": 2,
        "against_prompts": 2,
        "rows_with_shared_opening": 2,
    }
    assert checked(train).balance["leakage"] is None


def test_rows_of_several_files_keep_their_numbers() -> None:
    rows = [Parsed(f"part-{part}", row, PromptOnly(prompt("the same")), (), "") for part in range(3) for row in (5, 9)]
    (tally,) = checked(rows).findings
    assert [(place.file, place.row) for place in tally.places] == [
        ("part-0", 9),
        ("part-1", 5),
        ("part-1", 9),
        ("part-2", 5),
        ("part-2", 9),
    ]


def test_balance_of_labels() -> None:
    rows = [
        pair("a", "x", "y", better=0, safer=1, safe=(False, True), categories=(("theft",), ()), severity=(2, 0)),
        pair("b", "x", "y", better=1, safer=1, safe=(True, True)),
        pair("c", "x", "y", better=0, safer=0, safe=(False, False), categories=(("theft", "drugs"), ("drugs",))),
        pair("d", "x", "y", better=0),
    ]
    balance = checked(rows).balance
    assert {key: balance["better"][key] for key in ("0", "1", "unknown")} == {"0": 3, "1": 1, "unknown": 0}
    assert balance["better"]["rate_0"]["value"] == 0.75
    assert balance["better"]["rate_0"]["low"] == pytest.approx(0.3006, abs=1e-4)  # Wilson, 3 of 4
    assert {key: balance["safer"][key] for key in ("0", "1", "unknown")} == {"0": 1, "1": 2, "unknown": 1}
    assert {key: balance["safe"][key] for key in ("safe", "unsafe", "unknown")} == {
        "safe": 3,
        "unsafe": 3,
        "unknown": 2,
    }
    assert balance["pairs_safe"] == {"both": 1, "one": 1, "none": 1, "unknown": 1}
    assert balance["categories"] == {"drugs": 2, "theft": 2}
    assert balance["severity"] == {"0": 1, "2": 1}
    assert balance["decoupling"]["n"] == 3
    assert balance["decoupling"]["phi"]["value"] == pytest.approx(0.5)
    assert balance["decoupling"]["differ"]["value"] == pytest.approx(1 / 3)
    by_safety = balance["decoupling"]["differ_by_safe_responses"]
    assert {group: rate["value"] for group, rate in by_safety.items()} == {"both": 0, "one": 1, "none": 0}


def test_unsafe_without_a_category_is_told_where_others_have_one() -> None:
    plain = pair("a", "x", "y", safe=(False, True))
    assert checked([plain]).findings == ()
    named = pair("b", "x", "y", safe=(False, True), categories=(("theft",), ()))
    assert rows_of(checked([plain, named])) == {"unsafe_without_category": [1]}


@pytest.mark.parametrize(("longer_wins", "told"), [(100, "longer"), (0, "shorter"), (52, None)])
def test_length_bias(longer_wins: int, told: str | None) -> None:
    rows = [
        pair(f"q{i}", "x" * (9 if (i < longer_wins) == (i % 2 == 0) else 1), "yyyy", better=i % 2) for i in range(100)
    ]
    quality = checked([*rows, pair("tie", "aaaa", "bbbb", better=0)])
    counts = quality.balance["length_bias"]["better"]["characters"]
    assert (counts["longer_wins"], counts["shorter_wins"], counts["equal"]) == (longer_wins, 100 - longer_wins, 1)
    assert quality.balance["length_bias"]["better"]["words"]["equal"] == 101
    assert quality.balance["length_bias"]["safer"]["characters"] is None
    examples = [tally.example for tally in quality.findings if tally.kind == "length_bias"]
    assert bool(examples) == (told is not None)
    assert told is None or f"the {told} response is the better one" in examples[0]


def test_a_winner_that_is_always_first_is_told_unless_the_format_does_so() -> None:
    rows = [pair(f"q{i}", "x", "y", better=0) for i in range(200)]
    assert "one_sided_order" in rows_of(checked(rows))
    assert "one_sided_order" not in rows_of(checked(rows, fixed_order=True))


def test_safety_labels_of_one_side() -> None:
    rows = [LabelledResponse(prompt(f"q{i}"), "x", safe=True) for i in range(200)]
    assert "one_sided_safety" in rows_of(checked(rows))
    assert "one_sided_safety" not in rows_of(checked([replace(row, safe=i % 2 == 0) for i, row in enumerate(rows)]))


def test_lengths_and_turns() -> None:
    rows = [PreferencePair(prompt("one two", "three", "four"), ("a b c", "d"))] * 3 + [pair("x" * 5000, "a", "b")]
    balance = checked(rows).balance
    assert balance["turns"] == {"user_turns": {"1": 1, "2": 3}, "with_system": 0}
    words = balance["lengths"]["prompt"]["words"]
    assert (words["n"], words["min"], words["median"], words["max"], words["mean"]) == (4, 1, 4, 4, 3.25)
    long = balance["lengths"]["prompt"]["characters"]
    assert long["max"] == 5000
    assert balance["lengths"]["response"]["words"]["max"] == 3


def test_quantiles_are_close_to_exact() -> None:
    lengths = np.random.default_rng(0).lognormal(6, 1.5, 2000).astype(int)
    rows = [PromptOnly(prompt("x" * (length + 1))) for length in lengths]
    found = checked(rows).balance["lengths"]["prompt"]["characters"]
    for name, share in (("q05", 0.05), ("median", 0.5), ("q95", 0.95)):
        exact = np.quantile(lengths + 1, share, method="inverted_cdf")
        assert found[name] == pytest.approx(exact, rel=0.003)


def test_agreement_between_annotators() -> None:
    answers = ["000", "000", "001", "111", "110", "111", "000", "111", "011", "000", "111", "111"]
    rows = [
        pair(
            f"q{row}",
            "x",
            "y",
            votes=tuple(Vote(name, "better", int(answer)) for name, answer in zip("abc", given, strict=True)),
        )
        for row, given in enumerate(answers)
    ]
    found = checked(rows).agreement["votes"]["better"]
    assert (found["units"], found["ratings"], found["fleiss_ratings_per_unit"]) == (12, 36, 3)
    assert found["raw"] == pytest.approx((9 + 3 / 3) / 12)
    table = np.array([[given.count("0"), given.count("1")] for given in answers])
    from statsmodels.stats.inter_rater import cohens_kappa, fleiss_kappa

    assert found["fleiss"] == pytest.approx(fleiss_kappa(table))
    low, high = found["krippendorff_interval"]
    assert low < found["krippendorff"] < high
    cohen = {tuple(each["annotators"]): each["kappa"] for each in found["cohen"]["pairs"]}
    for one, other in (("a", "b"), ("a", "c"), ("b", "c")):
        crossed = np.zeros((2, 2), dtype=int)
        for given in answers:
            crossed[int(given["abc".index(one)]), int(given["abc".index(other)])] += 1
        assert cohen[one, other] == pytest.approx(cohens_kappa(crossed, return_results=False))
    assert found["cohen"]["mean"] == pytest.approx(np.mean(list(cohen.values())))


def test_low_agreement_is_told() -> None:
    rng = np.random.default_rng(0)
    rows = [
        pair(f"q{row}", "x", "y", votes=tuple(Vote(name, "safer", int(rng.integers(2))) for name in "ab"))
        for row in range(80)
    ]
    assert "low_agreement" in rows_of(checked(rows))
    same = [
        replace(row, votes=tuple(replace(vote, answer=index % 2) for vote in row.votes))
        for index, row in enumerate(rows)
    ]
    assert "low_agreement" not in rows_of(checked(same))


def test_repeated_labels_of_responses() -> None:
    """As in BeaverTails: three rows on one response, two on another, one alone."""
    labels = [
        ("q", True, ()),
        ("q", False, ("theft",)),
        ("q", False, ("theft", "drugs")),
        ("r", True, ()),
        ("r", True, ()),
        ("s", False, ("theft",)),
    ]
    rows = [LabelledResponse(prompt(name), "x", safe=safe, categories=kinds) for name, safe, kinds in labels]
    quality = checked(rows)
    found = rows_of(quality)
    assert found["repeated_response"] == [2, 3, 5]
    assert found["conflicting_safety"] == [2, 3]
    safe = quality.agreement["repeated"]["safe"]
    assert (safe["units"], safe["ratings"]) == (2, 5)
    assert safe["raw"] == pytest.approx((1 / 3 + 1) / 2)
    # 5 ratings, 3 of them safe; coincidences 2·(1/2) and 2 + 2·0: alpha = (4·3 − 8) / (20 − 8).
    assert safe["krippendorff"] == pytest.approx((4 * (1 + 2) - (3 * 2 + 2 * 1)) / (20 - 8))
    assert quality.agreement["repeated"]["category theft"]["raw"] == pytest.approx((1 / 3 + 1) / 2)
    assert quality.agreement["repeated"]["category drugs"]["ratings"] == 5
    assert quality.balance["different"] == {"prompts": 3, "pairs": 0, "responses": 3}


def test_a_file_with_a_category_of_its_own_in_every_row_stays_small() -> None:
    rows = [LabelledResponse(prompt(f"q{i}"), "x", safe=False, categories=(f"kind {i}",)) for i in range(1500)]
    quality = checked(rows)
    assert len(quality.balance["categories"]) == 1001
    assert quality.balance["categories"]["(others)"] == 500


def test_huge_names_are_cut_and_stay_apart() -> None:
    rows = [LabelledResponse(prompt(f"q{i}"), "x", safe=False, categories=("k" * 9999 + str(i % 2),)) for i in range(4)]
    names = checked(rows).balance["categories"]
    assert list(names.values()) == [2, 2]
    assert max(map(len, names)) < 250


def test_a_row_without_a_record_is_never_good() -> None:
    quality = checked([Parsed("a", 1, None, (), "")])
    assert (quality.quarantined, rows_of(quality)) == (1, {"unreadable": [1]})


def test_groups_keep_their_order() -> None:
    groups = Groups.of(np.array([7, 3, 7, 3, 3, 9], dtype=np.uint64))
    assert groups.firsts().tolist() == [0, 1, 0, 1, 1, 5]
    counts, times = groups.patterns(np.array([0, 1, 1, 1, 2, 0], dtype=np.int8))
    assert sorted(zip(counts.tolist(), times.tolist(), strict=True)) == [([0, 2], 1), ([1, 1], 1)]
