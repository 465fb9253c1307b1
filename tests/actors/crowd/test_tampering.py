import pytest

from actors.crowd.tampering import HARMLESSNESS, Tampering, tamper
from configs.exits import DataError


def pair(index, category=None, safe=(True, True)):
    return {
        "pair_id": f"p{index}",
        "category": category,
        "better_response_id": index % 2,
        "safer_response_id": 0 if safe[0] >= safe[1] else 1,
        "is_response_0_safe": safe[0],
        "is_response_1_safe": safe[1],
        "response_0_categories": () if safe[0] else ("theft",),
        "response_1_categories": () if safe[1] else ("theft",),
    }


@pytest.fixture
def rows():
    return [pair(index, "theft" if index < 40 else None, (index % 3 > 0, index % 4 > 0)) for index in range(200)]


def changed(new, old):
    return [index for index, (one, other) in enumerate(zip(new, old, strict=True)) if one != other]


def test_flipping_turns_labels_categories_and_ranking_of_that_many_pairs(rows):
    new, facts = tamper(rows, Tampering("flip", 0.25), seed=1)
    moved = changed(new, rows)
    assert facts == {"tampered": 50.0} and len(moved) == 50
    for index in moved:
        before, after = rows[index], new[index]
        assert after["safer_response_id"] == 1 - before["safer_response_id"]
        for side in (0, 1):
            safe = after[f"is_response_{side}_safe"]
            assert safe is not before[f"is_response_{side}_safe"]
            assert after[f"response_{side}_categories"] == (() if safe or not before["category"] else ("theft",))
        assert after["better_response_id"] == before["better_response_id"]


def test_the_logical_order_holds_after_flipping(rows):
    for row in tamper(rows, Tampering("flip", 1.0), seed=1)[0]:
        if row["is_response_0_safe"] != row["is_response_1_safe"]:
            assert row[f"is_response_{row['safer_response_id']}_safe"]


def test_flipping_can_be_kept_to_some_categories(rows):
    new, _ = tamper(rows, Tampering("flip", 0.15, ("theft",)), seed=1)
    assert len(changed(new, rows)) == 30 and max(changed(new, rows)) < 40


def test_more_flips_than_pairs_of_the_category_are_refused_with_the_most_that_works(rows):
    with pytest.raises(DataError, match=r"60 of 200 pairs.*only 40 are of theft; lower it to at most 0.200"):
        tamper(rows, Tampering("flip", 0.3, ("theft",)), seed=1)


def test_shuffling_deals_whole_labels_out_and_leaves_the_rest_alone(rows):
    new, facts = tamper(rows, Tampering("shuffle", 1.0), seed=1)

    def labels(some):
        return sorted(str([row[name] for name in HARMLESSNESS]) for row in some)

    assert labels(new) == labels(rows)
    assert 50 < facts["tampered"] < 200
    assert [row["better_response_id"] for row in new] == [row["better_response_id"] for row in rows]


def test_the_same_seed_does_the_same_and_another_something_else(rows):
    first, again, other = (tamper(rows, Tampering("flip", 0.2), seed)[0] for seed in (3, 3, 4))
    assert first == again != other
