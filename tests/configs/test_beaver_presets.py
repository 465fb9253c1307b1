"""The papers' three rounds: the values, where each comes from, and a dry run without a network."""

from __future__ import annotations

import re
import socket
from itertools import pairwise
from pathlib import Path

import pytest

from configs.exits import ConfigError
from configs.load import PRESETS, dump_settings, load_settings

ROUNDS = ("beaver_7b", "beaver_7b_round2", "beaver_7b_round3")
SOURCE = re.compile(r"# *(?:paper B|as paper B|script|ours)\b", re.IGNORECASE)


@pytest.mark.parametrize(
    ("name", "limit", "initial", "rate"), zip(ROUNDS, (0, -3, -3), (1, 0.5, 1), (0.01, 0.04, 0.04), strict=True)
)
def test_the_rounds_have_the_papers_multiplier(name: str, limit: float, initial: float, rate: float) -> None:
    one = load_settings(name).constraints["harm"]
    assert (one.measure, one.limit, one.subset, one.effective_scale) == ("mean", limit, (), 1.0)
    dual = one.dual
    assert (dual.form, dual.initial, dual.learning_rate, dual.cap, dual.delay) == ("log", initial, rate, 5.0, 0)


def test_the_scripts_numbers() -> None:
    run = load_settings("beaver_7b")
    ppo = run.ppo
    assert (ppo.kl_coefficient, ppo.actor_learning_rate, ppo.critic_learning_rate) == (0.01, 1e-5, 5e-6)
    assert (ppo.loss, ppo.advantages, ppo.critics, ppo.ptx_coefficient) == ("row_mean", "raw", "separate", 16.0)
    assert (ppo.clip_ratio, ppo.clip_score, ppo.clip_value, ppo.epochs) == (0.2, 50.0, 5.0, 1)
    for model in (run.reward_model, run.cost_model):
        assert (model.epochs, model.regularisation, model.optimiser.learning_rate) == (2, 1e-3, 2e-5)
        assert model.optimiser.weight_decay == 0.1
    assert (run.model.max_length, run.model.template, run.objective.normalise) == (512, "papers", "none")


def test_the_later_rounds_differ_in_start_limit_and_multiplier_alone() -> None:
    first = load_settings("beaver_7b").model_dump()
    for name in ROUNDS[1:]:
        other = load_settings(name).model_dump()
        assert {key for key in first if first[key] != other[key]} == {"name", "model", "constraints"}
        assert {key for key in first["model"] if first["model"][key] != other["model"][key]} == {"path"}
        harm, base = other["constraints"]["harm"], first["constraints"]["harm"]
        assert {key for key in base if base[key] != harm[key]} == {"limit", "dual"}


def test_a_round_goes_on_from_where_the_one_before_leaves_its_policy() -> None:
    for before, after in pairwise(ROUNDS):
        assert load_settings(after).model.path == f"runs/{load_settings(before).name}/rounds/1/policy"


def test_every_value_says_where_it_comes_from() -> None:
    for name in ROUNDS:
        lines = (PRESETS / f"{name}.yaml").read_text(encoding="utf-8").split("\nresources:")[0].splitlines()
        values = [line for line in lines if re.match(r"\s*[a-z_]+: *[^\s#]", line)]
        unsourced = [
            line
            for line in values
            if not SOURCE.search(line)
            and not line.startswith(("name:", "extends:", "  signal:"))
            and "hub:" not in line  # said at the key above it
        ]
        assert unsourced == [], name


def test_sources_on_the_hub_are_pinned_by_a_whole_commit() -> None:
    data = load_settings("beaver_7b").data
    assert data is not None
    for source in (*data.helpfulness, *data.harmlessness, *data.demonstrations, *data.evaluation.values()):
        assert re.fullmatch(r"hub:PKU-Alignment/PKU-SafeRLHF/data/Alpaca-7B@[0-9a-f]{40}", source.source)


@pytest.mark.parametrize("name", ROUNDS)
def test_a_dry_run_asks_nothing_of_a_network(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cluster.inputs.sources import FileInputs, check_inputs

    def refused(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.chdir(tmp_path)
    if name in ROUNDS[1:]:
        with pytest.raises(ConfigError, match=r"model\.path: there is no folder runs/beaver-7b"):
            check_inputs(load_settings(name))
        policy = Path(load_settings(name).model.path or "")
        policy.mkdir(parents=True)
        (policy / "config.json").write_text("{}")
    inputs = check_inputs(load_settings(name))
    assert isinstance(inputs, FileInputs) and all(source.on_hub for source in inputs.all_sources)
    assert dump_settings(load_settings(name))
