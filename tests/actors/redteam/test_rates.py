"""Shares over clustered samples, paired differences, and the tables made of them."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest

from actors.redteam.cells import redteam_cells
from actors.redteam.rates import clustered_share, effective_size, paired_difference
from actors.redteam.records import Row
from learner.statistics.intervals import wilson


def test_independent_samples_have_wilsons_interval_but_for_the_t_correction():
    flags = [True] * 30 + [False] * 170
    cell = clustered_share(flags, range(200))
    plain = wilson(30, 200)
    assert cell["value"] == 0.15
    assert cell["n"] == 200
    assert cell["low"] == pytest.approx(plain.low, abs=0.002)
    assert cell["high"] == pytest.approx(plain.high, abs=0.002)


def test_samples_of_a_task_that_are_all_alike_count_as_one():
    flags = [task < 8 for task in range(20) for _ in range(10)]
    tasks = [task for task in range(20) for _ in range(10)]
    assert effective_size(flags, tasks) == pytest.approx(20)
    cell = clustered_share(flags, tasks)
    plain = wilson(8, 20)
    assert (cell["low"], cell["high"]) == pytest.approx((plain.low, plain.high), abs=1e-9)
    assert cell["n"] == 200


def test_no_success_at_all_counts_every_task_once():
    cell = clustered_share([False] * 100, [i % 10 for i in range(100)])
    assert cell["high"] == pytest.approx(wilson(0, 10).high)
    assert clustered_share([], [])["value"] is None


def test_the_effective_size_is_hand_computed():
    """Two tasks with 3 of 4 and 1 of 4: p = 0.5, residuals ±1, variance 2 · 2 / 64 = 1/16, independent 1/32."""
    flags, tasks = [1, 1, 1, 0, 1, 0, 0, 0], ["a"] * 4 + ["b"] * 4
    z, t = 1.959963984540054, 12.706204736432095
    assert effective_size(flags, tasks) == pytest.approx(max(2, 8 * 0.5 * (z / t) ** 2))


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """30 tasks whose own rates differ, 12 samples each: nominal 95 %; with samples as if independent about 75 %."""
    rng = np.random.default_rng(0)
    covered = naive = 0
    for _ in range(300):
        rates = rng.beta(1.0, 2.0, size=30)
        flags = rng.random((30, 12)) < rates[:, None]
        cell = clustered_share(flags.ravel().tolist(), np.repeat(np.arange(30), 12).tolist())
        plain = wilson(int(flags.sum()), flags.size)
        covered += cell["low"] <= 1 / 3 <= cell["high"]
        naive += plain.low <= 1 / 3 <= plain.high
    assert 0.92 <= covered / 300 <= 0.99
    assert naive / 300 < 0.8


def test_differences_are_paired_by_task():
    before = {task: 0.5 + 0.01 * task for task in range(10)}
    after = {task: value - 0.3 + 0.01 * (task % 2) for task, value in before.items()} | {"alone": 1.0}
    cell, p = paired_difference(before, after)
    assert cell["value"] == pytest.approx(-0.295)
    assert cell["n"] == 10
    assert p < 1e-6
    assert paired_difference({1: 0.5}, {1: 0.2})[1] is None
    assert paired_difference({}, {})[0]["value"] is None


def made_up_rows(models=("sft", "policy"), tasks=12, samples=3) -> list[Row]:
    rng, rows = random.Random(1), []
    rates = {"sft": {"direct": 0.6, "command_embedding": 0.7}, "policy": {"direct": 0.02, "command_embedding": 0.5}}
    for model in models:
        for task in range(tasks):
            for strategy, rate in rates[model].items():
                for sample in range(samples):
                    success = rng.random() < rate
                    rows.append(
                        Row(
                            model,
                            "suite",
                            f"t{task}/{strategy}",
                            strategy,
                            strategy,
                            "new",
                            f"t{task}",
                            "seen",
                            "harmful",
                            f"category {task % 3}",
                            sample,
                            ({"role": "user", "content": "<b>how?</b>"},),
                            "<script>1</script>",
                            True,
                            "harmful" if success else "safe_refusal",
                            float(success),
                            success,
                            float(success) - 0.5,
                            1,
                            "[]",
                            "gold",
                        )
                    )
    return rows


def test_the_table_counts_what_is_there():
    rows = made_up_rows()
    document = redteam_cells(rows)
    json.dumps(document, allow_nan=False)
    assert document["models"] == ["sft", "policy"]
    direct = document["cells"]["sft"]["strategy"]["direct"]
    mine = [row for row in rows if row.model == "sft" and row.strategy == "direct"]
    assert direct["success"]["value"] == sum(row.success for row in mine) / 36
    tasks = {row.target for row in mine if row.success}
    assert direct["worst_of_n"]["value"] == len(tasks) / 12
    assert direct["worst_of_n"]["value"] > direct["success"]["value"]
    assert sum(cell["value"] for cell in document["outcomes"]["policy"]["all"].values()) == pytest.approx(1)


def test_holm_covers_every_tested_difference_and_never_lowers_p():
    found = redteam_cells(made_up_rows())["differences"]["policy"]["sft"]
    cells = [cell for group in found.values() for cell in group.values()]
    assert set(found) == {"all", "strategy", "category"}
    assert all(cell["p_holm"] >= cell["p"] for cell in cells)
    smallest = min(cells, key=lambda cell: cell["p"])
    assert smallest["p_holm"] == pytest.approx(len(cells) * smallest["p"])
    assert found["strategy"]["direct"]["value"] < -0.3
    assert found["strategy"]["direct"]["p_holm"] < 0.001


def test_every_two_of_three_models_are_compared_in_one_family():
    rows = made_up_rows()
    rows += [replace(row, model="twin") for row in rows if row.model == "policy"]
    found = redteam_cells(rows)["differences"]
    assert {later: list(earlier) for later, earlier in found.items()} == {"policy": ["sft"], "twin": ["sft", "policy"]}
    assert found["twin"]["policy"]["all"]["all"]["value"] == 0.0
    cells = [
        cell
        for pairs in found.values()
        for groups in pairs.values()
        for group in groups.values()
        for cell in group.values()
    ]
    made = [cell for cell in cells if cell["p"] is not None]
    smallest = min(made, key=lambda cell: cell["p"])
    assert smallest["p_holm"] == pytest.approx(len(made) * smallest["p"])


def test_differences_use_the_attacks_that_both_models_have():
    rows = [row for row in made_up_rows() if not (row.model == "sft" and row.target == "t0")]
    found = redteam_cells(rows)["differences"]["policy"]["sft"]["all"]["all"]
    assert found["n"] == 11
