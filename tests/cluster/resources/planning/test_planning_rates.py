"""Calibrations: kept, refused where they do not fit the question, and what a plan makes of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.resources.planning.plan import Plan, make_plan, task_of, with_value
from cluster.resources.planning.rates import load_rates, save_rates
from cluster.resources.planning.search import _fastest_learner
from cluster.resources.planning.sizes import named_shape
from configs.exits import ConfigError, DataError
from tests.cluster.planning_questions import beaver, measured, question, run


def test_a_calibration_is_written_and_read(tmp_path: Path) -> None:
    asked = question(beaver())
    rates = measured(asked)
    path = tmp_path / "deep" / "rates.json"
    save_rates(rates, path)
    assert load_rates(path, "h100") == rates
    older = rates.to_document() | {"version": 1}
    wrong = rates.to_document() | {"dtype": 16}
    for document, why in (
        ({}, "version"),
        (older, "is no calibration of version 2; calibrate again .*--assumed"),
        ({"version": 2, "learn_flops": -1}, "missing, unknown or no number"),
        (wrong, "dtype is missing, unknown"),
    ):
        path.write_text(json.dumps(document))
        with pytest.raises(DataError, match=why):
            load_rates(path, "h100")
    with pytest.raises(DataError, match="no calibration can be read"):
        load_rates(tmp_path / "none.json", "h100")


def test_a_calibration_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rates.json"
    save_rates(measured(question(beaver())), path)
    with pytest.raises(ConfigError, match=r"--gpu: a100 is asked for and .* was measured on h100; give --gpu h100"):
        run("beaver_7b", "--params", "7b", "--gpu", "a100:8", "--calibration", str(path))


def test_measured_rates_do_not_make_offloading_free() -> None:
    asked = question(beaver("resources.learner.offload=false"), gpu="h200:8")
    asked = replace(asked, rates=measured(asked, host_optimiser_bytes=5e9, optimiser_bytes=2e12))

    def plan(offload: bool, size: str = "7b") -> Plan:
        resources = with_value(asked.resources, "learner", "offload", offload)
        return make_plan(replace(asked, resources=resources, shape=named_shape(size)))

    on, off = (plan(offload).phase("learn") for offload in (True, False))
    assert on.parts["optimiser"] > 100 * off.parts["optimiser"]
    assert on.seconds - off.seconds == pytest.approx(on.parts["optimiser"] - off.parts["optimiser"])
    assert plan(True, "13b").phase("learn").parts["optimiser"] > 1.8 * on.parts["optimiser"]  # it grows with the model
    learner = _fastest_learner(asked, 4)  # which has room for the states
    assert learner is not None and not learner.offload


def test_what_was_not_measured_goes_by_the_data_sheet() -> None:
    asked = question(beaver(), nodes=2)
    asked = replace(asked, rates=measured(asked))
    rates = task_of(asked).rates
    assert rates == asked.rates
    wide = asked.with_resources(with_value(asked.resources, "learner", "ranks", 16))
    assert task_of(wide).rates.collective_bytes < 0.5 * rates.collective_bytes  # over the network of two nodes
    full = asked.with_resources(with_value(asked.resources, "learner", "dtype", "float32"))
    h100 = asked.cluster.hardware
    expected = rates.learn_flops * h100.flops_float32 / h100.flops_bfloat16
    assert task_of(full).rates.learn_flops == pytest.approx(expected)
    assert task_of(full).rates.decode_flops == rates.decode_flops
