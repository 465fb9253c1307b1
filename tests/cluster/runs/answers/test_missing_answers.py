"""An answer that is missing counts against the policy."""

from cluster.runs.answers.judge_by_gold import with_missing
from learner.statistics.certificate import certify


def test_missing_answers_count_as_unsafe() -> None:
    assert with_missing([False, True], 5, 2) == [True, True, True, False, True]
    assert with_missing([False, True], 2, 2) == [False, True]


def test_a_certificate_is_not_saved_by_losing_the_unsafe_answers() -> None:
    complete = certify(with_missing([False] * 100, 100, 100), 0.05, labels_source="gold")
    lossy = certify(with_missing([False] * 100, 110, 100), 0.05, labels_source="gold")
    assert complete.feasible and not lossy.feasible and lossy.n == 110
