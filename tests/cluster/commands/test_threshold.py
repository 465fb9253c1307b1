"""`steelyard threshold` on a tiny run folder with a real cost model, and what a run makes of the limit it gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy.special import expit
from transformers import AutoModelForSequenceClassification
from typer.testing import CliRunner, Result

from actors.crowd.tasks import write_rows
from cluster.commands.guard import guarded
from cluster.commands.main import app
from cluster.commands.threshold import rounded_down
from cluster.run_folder.digests import folder_digest, model_digest
from cluster.run_folder.manifest import Manifest, StageRecord, output_digest
from cluster.runs.stages.chosen_limits import chosen_limit_problem, held_out_responses, load_limits
from configs.exits import ConfigError, DataError, Exit
from configs.layout import RunLayout
from configs.load import dump_settings, load_settings
from configs.schema.signals import ConstraintSettings
from configs.schema.supervised import ModelSettings
from learner.models import modules as models
from learner.statistics.calibration import calibrate
from learner.statistics.limits import choose_limit, limit_curve

TINY = ModelSettings(hidden_size=32, layers=1, heads=2, intermediate_size=48, max_length=32)
PAIRS = 120
RATE = 0.3


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as it lies on disk once its cost model is trained."""
    layout = RunLayout(tmp_path_factory.mktemp("storage") / "tiny")
    tokenizer = models.build_tokenizer([f"word{index}" for index in range(30)], TINY.max_length)
    policy_path = layout.sft
    models.save_model(models.new_policy(TINY, tokenizer, seed=1), tokenizer, policy_path)
    cost = models.new_score_model_from(policy_path)
    torch.manual_seed(0)
    torch.nn.init.normal_(cost.score.weight, std=0.5)
    models.save_model(cost, tokenizer, layout.cost(1, "harm"))
    rng = np.random.default_rng(0)
    rows = [_row(index, rng) for index in range(PAIRS)]
    for row in rows:
        for side, cost_of in enumerate(_costs(layout.cost(1, "harm"), [row])):
            row[f"is_response_{side}_safe"] = bool(rng.random() > expit(2 * cost_of))
    write_rows(rows, _preferences(layout))
    # Further constraints need no model of their own: they are there for their errors.
    extra = "constraints.theft={measure: mean, limit: 0.0, subset: [attack]}"
    settings = load_settings("quickstart", ["name=tiny", "constraints.harm.subset=[harmful]", extra])
    layout.config.write_text(dump_settings(settings))
    return layout.root


@pytest.fixture
def run(made: Path, tmp_path: Path) -> RunLayout:
    """A copy that a test may change."""
    shutil.copytree(made, tmp_path / "tiny")
    return RunLayout(tmp_path / "tiny")


def _preferences(layout: RunLayout) -> Path:
    return layout.preferences(1) / "preferences.parquet"


def _row(index: int, rng: np.random.Generator) -> dict[str, Any]:
    split = ("train", "holdout", "calibration", "calibration")[index % 4]
    row: dict[str, Any] = {
        "pair_id": f"pair-{index}",
        "task_id": f"task-{index % 16}",
        "form": "plain",
        "kind": "benign" if index % 16 == 3 else "harmful",
        "tags": ["plain", "benign"]
        if index % 16 == 3
        else ["harmful", "plain", *(["attack"] if index % 8 == 2 else [])],
        "prompt_ids": rng.integers(5, 30, 4).tolist(),
        "split": split,
    }
    for side in (0, 1):
        row[f"response_{side}_ids"] = rng.integers(5, 30, int(rng.integers(2, 9))).tolist()
        row[f"is_response_{side}_safe"] = True
        row[f"response_{side}_categories"] = ["violence"]
    return row


def _costs(folder: Path, rows: list[dict[str, Any]]) -> np.ndarray:
    """Scores by plain transformers, one response at a time: another way than the command's."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        return np.array(
            [
                float(model(input_ids=torch.tensor([[*row["prompt_ids"], *row[f"response_{side}_ids"]]])).logits[0, 0])
                for row in rows
                for side in (0, 1)
            ]
        )


def _change_rows(layout: RunLayout, change: Any) -> None:
    rows = pq.read_table(_preferences(layout)).to_pylist()
    write_rows([change(row) for row in rows], _preferences(layout))


def threshold(layout: RunLayout, *arguments: str, constraint: str | None = "harm") -> Result:
    named = ["--constraint", constraint] if constraint else []
    return CliRunner().invoke(app, ["threshold", str(layout.root), "--rate", str(RATE), *named, *arguments])


def test_the_limit_is_the_curves_own_on_the_calibration_split_of_the_subset(run: RunLayout) -> None:
    done = threshold(run, "--measure", "mean", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    # Expected: the rows picked by hand, costs by plain transformers.
    rows = [row for row in pq.read_table(_preferences(run)).to_pylist() if row["split"] == "calibration"]
    rows = [row for row in rows if row["kind"] == "harmful"]
    unsafe = [not row[f"is_response_{side}_safe"] for row in rows for side in (0, 1)]
    clusters = [(row["task_id"], row["form"]) for row in rows for _ in (0, 1)]
    curve = limit_curve(_costs(run.cost(1, "harm"), rows), unsafe, clusters, "mean")
    expected = choose_limit(curve, RATE)
    assert found["curve"]["n"] == len(unsafe) < 2 * PAIRS
    assert found["chosen"]["limit"] == pytest.approx(expected.limit, abs=1e-4)
    assert found["chosen"]["high"] <= RATE
    assert found["limit"] <= found["chosen"]["limit"] < found["limit"] + 1e-3 * max(1.0, abs(found["limit"]))
    assert found["chosen_for"] == model_digest(run.cost(1, "harm"))
    assert len(done.stdout.splitlines()) == 1 and not done.stderr


def test_on_files_all_prompts_of_one_opening_are_one_draw(run: RunLayout) -> None:
    def of_files(row: dict[str, Any]) -> dict[str, Any]:
        turns = [{"role": "user", "content": f"opening {int(row['pair_id'].split('-')[1]) % 5}"}]
        return {**row, "task_id": None, "form": None, "kind": None, "messages": turns}

    _change_rows(run, of_files)
    found = held_out_responses(_preferences(run), load_settings(run.config).constraints["harm"])
    assert len(set(found.conversations)) == 5 < len(found.conversations)


def test_what_is_printed_is_a_configuration_and_overrides(run: RunLayout) -> None:
    done = threshold(run, "--measure", "cvar", "--alpha", "0.2", "--by", "value")
    assert done.exit_code == 0, done.output
    assert "effective samples" in done.stdout and "cvar → harmful rate" in done.stdout
    lines = done.stdout.splitlines()
    start = lines.index("constraints:")
    own = run.root / "own.yaml"
    own.write_text("extends: quickstart\n" + "\n".join(lines[start : start + 2]))
    by_file = load_settings(own).constraints["harm"]
    by_override = load_settings("quickstart", lines[lines.index("or after a command:") + 1].split()).constraints["harm"]
    assert by_file == by_override
    assert (by_file.measure, by_file.alpha) == ("cvar", 0.2)
    assert chosen_limit_problem(by_file, model_digest(run.cost(1, "harm"))) is None


def test_the_curve_is_saved_beside_the_model_and_its_stage_stays_complete(run: RunLayout) -> None:
    folder = run.cost(1, "harm")
    manifest = Manifest(run.manifest)
    output = str(folder.relative_to(run.root))
    manifest.record(StageRecord("cost_model/harm", "k", {}, {output: output_digest(folder)}, 1.0))
    assert load_limits(folder) is None
    found = json.loads(threshold(run, "--measure", "mean", "--json").stdout)
    saved = load_limits(folder)
    assert saved is not None
    assert saved["cost_model"] == model_digest(folder) and saved["target_rate"] == RATE
    assert saved["chosen"] == found["chosen"] and saved["split"] == "calibration" and saved["n"] == saved["curve"].n
    assert saved["curve"].document() == found["curve"]
    assert Manifest(run.manifest).complete("cost_model/harm", "k") is not None
    (folder / "limits.json").write_text("{}")
    with pytest.raises(DataError, match="choose the limit again"):
        load_limits(folder)


def test_only_annotations_are_left_out_of_a_folders_digest(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("1")
    before = folder_digest(tmp_path)
    (tmp_path / "limits.json").write_text("{}")
    assert folder_digest(tmp_path) == before
    (tmp_path / "calibration.json").write_text("{}")
    assert folder_digest(tmp_path) != before


def test_an_ensembles_digest_covers_its_members(run: RunLayout) -> None:
    folder = run.cost(1, "harm")
    single = model_digest(folder)
    member = folder / "members" / "1"
    member.mkdir(parents=True)
    shutil.copy(folder / "model.safetensors", member)
    (folder / "ensemble.json").write_text('{"members": 2, "spread": 1.0, "bound": "upper"}')
    ensemble = model_digest(folder)
    (folder / "ensemble.json").write_text('{"members": 2, "spread": 2.0, "bound": "upper"}')
    assert len({single, ensemble, model_digest(folder)}) == 3


def test_an_ensemble_is_scored_as_one(run: RunLayout) -> None:
    folder = run.cost(1, "harm")
    single = json.loads(threshold(run, "--measure", "mean", "--json").stdout)["curve"]
    member = folder / "members" / "1"
    shutil.copytree(folder, member)
    model = models.load_score_model(member)
    model.score.weight.data.mul_(2.0)
    models.save_model(model, models.load_tokenizer(folder), member)
    (folder / "ensemble.json").write_text('{"members": 2, "spread": 0.0, "bound": "upper"}')
    both = json.loads(threshold(run, "--measure", "mean", "--json").stdout)["curve"]
    # The mean of c and 2 c is 1.5 c: the same rates at 1.5 times the limits.
    for one, other in zip(single["points"], both["points"], strict=True):
        assert other["limit"] == pytest.approx(1.5 * one["limit"], abs=1e-3)
        assert other["rate"] == pytest.approx(one["rate"], abs=1e-3)


def test_a_rates_limit_is_the_rate_and_the_table_is_by_the_calibration(run: RunLayout) -> None:
    raw = json.loads(threshold(run, "--json").stdout)  # quickstart's own measure is rate
    assert (raw["measure"], raw["limit"], raw["chosen_for"]) == ("rate", RATE, None)
    costs = np.linspace(-2, 2, 200)
    document = calibrate(costs, np.random.default_rng(1).random(200) < expit(3 * costs - 1), [], [])
    (run.cost(1, "harm") / "calibration.json").write_text(json.dumps(document.document()))
    calibrated = json.loads(threshold(run, "--json").stdout)
    assert calibrated["curve"]["points"] != raw["curve"]["points"]
    assert all(0 <= point["limit"] <= 1 for point in calibrated["curve"]["points"])
    printed = threshold(run).stdout
    assert printed.endswith(f"constraints.harm.limit={RATE}\n") and "chosen_for" not in printed
    assert raw["chosen"]["limit"] == max(p["limit"] for p in raw["curve"]["points"] if p["limit"] <= RATE)
    # No hold-out need vouch for it: the labels of the certificate will.
    low = json.loads(threshold(run, "--rate", "0.0001", "--json").stdout)
    assert low["limit"] == 0.0001 and low["chosen"] == low["curve"]["points"][0]


def test_any_tag_of_a_prompt_can_be_a_subset(run: RunLayout) -> None:
    attacks = held_out_responses(_preferences(run), ConstraintSettings(limit=0.1, subset=("attack",)))
    harmful = held_out_responses(_preferences(run), ConstraintSettings(limit=0.1, subset=("harmful",)))
    assert 0 < len(attacks.unsafe) < len(harmful.unsafe)


def test_categories_decide_what_counts_as_unsafe(run: RunLayout) -> None:
    preferences = _preferences(run)
    everything = held_out_responses(preferences, ConstraintSettings(limit=0.1))
    theft = held_out_responses(preferences, ConstraintSettings(limit=0.1, categories=("theft",)))
    violence = held_out_responses(preferences, ConstraintSettings(limit=0.1, categories=("theft", "violence")))
    assert any(everything.unsafe) and not any(theft.unsafe) and violence.unsafe == everything.unsafe
    assert len(set(everything.conversations)) == 8


@pytest.mark.parametrize(
    ("arguments", "constraint", "said"),
    [
        (["--rate", "5"], "harm", "--rate 5 is no rate"),
        (["--measure", "cvar", "--alpha", "1.5"], "harm", "--alpha 1.5"),
        ([], "harmm", "did you mean 'harm'?"),
        ([], None, "which constraint? give --constraint with one of harm, theft"),
    ],
)
def test_what_is_asked_wrongly_is_refused(run: RunLayout, arguments: list[str], constraint: str | None, said: str):
    done = threshold(run, *arguments, constraint=constraint)
    assert isinstance(done.exception, ConfigError) and said in str(done.exception)
    assert load_limits(run.cost(1, "harm")) is None


def test_a_single_constraint_needs_no_name(run: RunLayout) -> None:
    run.config.write_text(dump_settings(load_settings("quickstart", ["name=tiny"])))
    assert threshold(run, constraint=None).exit_code == 0
    run.config.write_text(dump_settings(load_settings("quickstart", ["name=tiny", "constraints={}"])))
    assert "no constraint, so there is no limit" in str(threshold(run, constraint=None).exception)


def test_a_rate_that_the_hold_out_cannot_vouch_for_names_the_smallest_one(run: RunLayout) -> None:
    done = threshold(run, "--measure", "mean", "--rate", "0.0001")
    assert isinstance(done.exception, DataError)
    said = str(done.exception)
    assert said.startswith("harm: no limit keeps the upper bound at 0.0001")
    smallest = said.split("vouch for ")[1].split()[0]
    assert threshold(run, "--measure", "mean", "--rate", smallest).exit_code == 0


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("no pairs", "has labelled no pairs yet"),
        ("no split", "lacks the column split"),
        ("no labels", "a mixed crowd gives no safety labels"),
        ("no calibration", "no pair of its subset is in it"),
        ("few", "too few for a curve"),
        ("no model", "holds no model"),
        ("not finite", "are not finite: train the cost model again"),
        ("constant", "this cost model tells none from another"),
    ],
)
def test_a_run_that_cannot_answer_says_why(run: RunLayout, damage: str, said: str) -> None:
    folder = run.cost(1, "harm")
    if damage == "no pairs":
        _preferences(run).unlink()
    elif damage == "no split":
        _change_rows(run, lambda row: {key: value for key, value in row.items() if key != "split"})
    elif damage == "no labels":
        _change_rows(run, lambda row: {**row, "is_response_0_safe": None, "is_response_1_safe": None})
    elif damage == "no calibration":
        _change_rows(run, lambda row: {**row, "split": "train"})
    elif damage == "few":
        _change_rows(
            run, lambda row: {**row, "split": "calibration" if row["pair_id"] in ("pair-1", "pair-2") else "train"}
        )
    elif damage == "no model":
        shutil.rmtree(folder)
    else:
        model = models.load_score_model(folder)
        model.score.weight.data.fill_(float("nan") if damage == "not finite" else 0.0)
        models.save_model(model, models.load_tokenizer(run.sft), folder)
    done = threshold(run, "--measure", "mean")
    assert isinstance(done.exception, DataError) and said in str(done.exception)


def test_no_such_run_and_no_configuration(run: RunLayout) -> None:
    run.config.unlink()
    done = threshold(run)
    assert isinstance(done.exception, ConfigError) and "which constraints it has is not known" in str(done.exception)
    missing = CliRunner().invoke(app, ["threshold", str(run.root / "nothing"), "--rate", "0.1"])
    assert isinstance(missing.exception, ConfigError) and "no run" in str(missing.exception)


def test_exit_codes_and_one_line(run: RunLayout, capsys: pytest.CaptureFixture[str]) -> None:
    def command(rate: str) -> int:
        return guarded(
            lambda: app(["threshold", str(run.root), "--constraint", "harm", "--measure", "mean", "--rate", rate])
        )

    assert [command(rate) for rate in (str(RATE), "2", "0.0001")] == [Exit.DONE, Exit.USAGE, Exit.DATA]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.startswith("error: ") for line in lines)


def test_a_limit_chosen_for_another_cost_model_is_a_problem_unless_told_otherwise() -> None:
    own, other = "a" * 64, "b" * 64
    limit = {"measure": "mean", "limit": -1.5}
    assert chosen_limit_problem(ConstraintSettings(**limit), own) is None
    assert chosen_limit_problem(ConstraintSettings(**limit, chosen_for=own), own) is None
    assert chosen_limit_problem(ConstraintSettings(**limit, chosen_for=own[:12]), own) is None
    for foreign in (other, own[:5], ""):
        problem = chosen_limit_problem(ConstraintSettings(**limit, chosen_for=foreign), own)
        assert problem is not None and "limit -1.5 was chosen for cost model" in problem and "any_cost_model" in problem
    assert chosen_limit_problem(ConstraintSettings(**limit, chosen_for=other, any_cost_model=True), own) is None


def test_rounding_never_raises_a_limit() -> None:
    assert [rounded_down(x) for x in (1.23456, -1.23456, 0.0, -0.00012345, 987654.0)] == [
        1.234,
        -1.235,
        0.0,
        -0.0001235,
        987600.0,
    ]


def test_help_lists_the_verb() -> None:
    assert "\n  threshold " in CliRunner().invoke(app, ["--help"]).stdout
