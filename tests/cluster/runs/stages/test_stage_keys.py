"""A stage's key follows the code that the stage runs, in both directions, in the project's own sources."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from actors.crowd.world_reader import load_world
from cluster.inputs.sources import check_inputs
from cluster.run_folder.code_digest import ROOMS, code_digest, reached_code
from cluster.runs.pipeline import stages_of
from cluster.runs.stages.base import Stage
from configs.load import load_settings
from tests.cluster.on_data import config_in
from tests.paths import ROOT

Digests = dict[str, str]
EVERY_ROUND = ["rounds.count=2", "rounds.red_team=true"]


def _sandbox_stages(*overrides: str) -> list[Stage]:
    return stages_of(load_settings("quickstart", [*EVERY_ROUND, *overrides]), load_world(None))


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Stage]]:
    """Of a run on the sandbox with rounds, of one without a loop, and of one on data."""
    settings = load_settings(config_in(tmp_path_factory.mktemp("data")))
    return {
        "sandbox": _sandbox_stages(),
        "direct": stages_of(load_settings("quickstart", ["algorithm=safe_dpo"]), load_world(None)),
        "data": stages_of(settings, check_inputs(settings)),
    }


def _copy(target: Path) -> Path:
    for room in ROOMS:
        shutil.copytree(ROOT / room, target / room, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
    return target


def _edited(target: Path, path: str, old: str, new: str) -> Path:
    file = _copy(target) / path
    text = file.read_text(encoding="utf-8")
    assert old in text, f"{path} has no {old!r}"
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    return target


def _digests(stages: list[Stage], root: Path) -> Digests:
    return {stage.name: code_digest(stage.code, root) for stage in stages}


def _changed(before: Digests, after: Digests) -> set[str]:
    return {name for name in before if before[name] != after[name]}


EVERY = "every stage"
CHANGES = [
    # file, its text, the new text, stages of the sandbox that must change, stages that must not
    (
        "cluster/runs/stages/labelling.py",
        "def label(",
        "_NEW = 1\n\n\ndef label(",
        {"preferences", "reward_model", "cost_model/harm"},
        {"sft", "pairs", "baseline"},
    ),
    ("learner/data/tokenizer.py", "def build_tokenizer(", "_NEW = 1\n\n\ndef build_tokenizer(", EVERY, set()),
    ("learner/algorithms/losses.py", "\ndef ", "\n_NEW = 1\n\n\ndef ", {"sft", "ppo"}, set()),
    ("actors/crowd/gold.py", "\ndef ", "\n_NEW = 1\n\n\ndef ", {"baseline", "evaluate"}, set()),
    ("actors/judging/judges/judge_prompts/safety.txt", "", "Again: ", {"preferences"}, {"sft", "pairs"}),
    (
        "learner/statistics/certificate.py",
        "\ndef ",
        "\n_NEW = 1\n\n\ndef ",
        {"evaluate"},
        {"sft", "pairs", "preferences", "reward_model"},
    ),
    (
        "actors/redteam/grammar.py",
        "\n@dataclass",
        "\n_NEW = 1\n\n\n@dataclass",
        {"round-2/red_team", "round-2/ppo"},
        {"sft", "ppo", "evaluate"},
    ),
]


@pytest.mark.parametrize(("path", "old", "new", "stale", "fresh"), CHANGES, ids=[change[0] for change in CHANGES])
def test_a_changed_line_makes_the_stages_stale_that_reach_it_and_no_other(
    tmp_path: Path,
    stages: dict[str, list[Stage]],
    path: str,
    old: str,
    new: str,
    stale: set[str] | str,
    fresh: set[str],
) -> None:
    before = _digests(stages["sandbox"], ROOT)
    changed = _changed(before, _digests(stages["sandbox"], _edited(tmp_path, path, old, new)))
    assert changed >= (set(before) if stale == EVERY else set(stale))
    assert not changed & fresh


def test_docstrings_comments_and_modules_that_no_stage_runs_change_no_key(
    tmp_path: Path, stages: dict[str, list[Stage]]
) -> None:
    root = _edited(tmp_path, "actors/redteam/grammar.py", '"""', '"""Other words. ')
    for path in ("actors/redteam/strategies.py", "learner/algorithms/losses.py", "cluster/runs/loop/ppo_loop.py"):
        (root / path).write_text("# A comment.\n" + (root / path).read_text(encoding="utf-8"), encoding="utf-8")
    for path in (
        "cluster/commands/report.py",
        "serving/report/run/page.py",
        "cluster/observability/telemetry/series.py",
    ):
        (root / path).write_text((root / path).read_text(encoding="utf-8") + "\nNEW = 1\n", encoding="utf-8")
    for kind in stages:
        assert _digests(stages[kind], root) == _digests(stages[kind], ROOT), kind


def test_a_constant_in_any_reached_module_changes_the_keys_of_those_that_reach_it(
    tmp_path: Path, stages: dict[str, list[Stage]]
) -> None:
    looked_at = [stage for stage in stages["data"] if stage.name in ("data", "sft", "ppo")]
    reached = {stage.name: reached_code(stage.code).modules for stage in looked_at}
    before = _digests(looked_at, ROOT)
    modules = sorted(set.union(*reached.values()))
    for module in modules[len(modules) // 3 :: len(modules) // 3]:
        root = _copy(tmp_path / module)
        place = root.joinpath(*module.split("."))
        with (place / "__init__.py" if place.is_dir() else place.with_suffix(".py")).open("a") as file:
            file.write("\nNEW = 1\n")
        changed = _changed(before, _digests(looked_at, root))
        assert changed == {name for name, names in reached.items() if module in names}, module


def test_what_engines_run_is_in_the_keys_of_the_stages_that_ask_them(stages: dict[str, list[Stage]]) -> None:
    modules = {stage.name: reached_code(stage.code).modules for kind in stages for stage in stages[kind]}
    assert {"learner.ranks.rank", "actors.generation.generator", "learner.algorithms.estimators.rvpo"} <= modules["ppo"]
    assert {"learner.engine.deepspeed_engine", "learner.supervised.training"} <= modules["sft"] & modules["direct"]
    assert "actors.generation.vllm_engine" in modules["pairs"] & modules["baseline"]
    for name, reached in modules.items():
        assert not any(module.startswith(("serving.", "cluster.commands", "cluster.jobs")) for module in reached), name
