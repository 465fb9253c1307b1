"""The report of score models of a run on data: sentences, tables whose figures are the summary's, pictures of every model."""

from __future__ import annotations

import numpy as np
import pytest

from learner.statistics.cost_zero import fit_cost_zero
from learner.supervised.score_models.baselines import PairShapes, pair_worth
from learner.supervised.score_models.quality import PairLabels
from serving.report.blocks.blocks import Figure, Note, Row, Table
from serving.report.by_models.score_model_quality import Named, worth_blocks, worth_pictures
from serving.summary import ScoreModelFigures

N = 400


def figures(gap: float, zero: bool = False) -> ScoreModelFigures:
    """From what the learner writes: every field must have its place in the summary."""
    rng = np.random.default_rng(3)
    rows = np.arange(N)
    labels = PairLabels(rows % 2 == 0, rows % 2 == 1, rows < 0, np.zeros((2, N), np.float32), np.ones(N, np.float32))
    scores = rng.normal(size=(2, N)) + np.array([[gap], [0.0]])
    shapes = PairShapes(rng.integers(3, 9, (2, N)), rows % 3 + 1)
    facts = {"worth": pair_worth("reward", labels, scores, shapes).document()}
    if zero:
        facts["zero"] = fit_cost_zero(scores[1], scores[0], rule="midpoint").document()
    return ScoreModelFigures.model_validate(facts)


@pytest.fixture(scope="module")
def named() -> Named:
    models = {"reward_model": figures(2.0), "cost_models.harm": figures(0.0, zero=True)}
    return {name: (key, each) for name, (key, each) in zip(("reward", "cost/harm"), models.items(), strict=True)}


def test_the_sandbox_has_none_of_it() -> None:
    plain: Named = {"reward": ("reward_model", ScoreModelFigures(pair_accuracy=0.9))}
    assert worth_blocks(plain) == [] and worth_pictures(plain) == ()


def test_sentences_warn_where_there_is_doubt_and_a_relative_cost_is_called_so(named: Named) -> None:
    notes = [block for block in worth_blocks(named) if isinstance(block, Note)]
    assert [note.tone for note in notes] == ["plain", "warning", "warning"]
    assert "which it beats" in notes[0].text and notes[1].text.startswith("cost/harm: near chance: ")
    assert notes[2].text.startswith("cost/harm is relative: not a safety label. Its zero is the middle between")


def test_every_figure_is_the_summarys(named: Named) -> None:
    summary = {
        "reward_model": named["reward"][1].model_dump(),
        "cost_models": {"harm": named["cost/harm"][1].model_dump()},
    }
    seen = 0
    for figure in _figures(worth_blocks(named)):
        if figure.key:
            found = summary
            for part in figure.key.split("."):
                found = found[part]
            assert figure.value == (found["value"] if isinstance(found, dict) else found), figure.key
            seen += 1
    assert seen >= 2 * (6 + 2 * 3)


def _figures(blocks: list[object]) -> list[Figure]:
    rows: list[Row] = [row for block in blocks if isinstance(block, Table) for row in block.rows]
    return [figure for row in rows for cell in row.cells for figure in cell]


def test_turns_are_columns_with_model_and_length_side_by_side(named: Named) -> None:
    table = [block for block in worth_blocks(named) if isinstance(block, Table)][-1]
    assert table.columns == ("1 turn", "2 turns", "3 turns")
    assert [figure.label for figure in table.rows[0].cells[0]] == ["model", "length"]


def test_every_model_has_its_picture(named: Named) -> None:
    assert [each.title for each in worth_pictures(named)] == [
        "Calibration of preferences: reward",
        "Calibration of preferences: cost/harm",
    ]
