"""`steelyard why` over rollouts with the columns that the learner ranks write."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from typer.testing import CliRunner

from configs.exits import ConfigError, DataError
from configs.layout import RunLayout
from learner.data.tokenizer import build_tokenizer
from serving.explain.why import explain, list_samples, render

LOWEST = {"behaviour_logprobs": -2.0, "proximal_logprobs": -2.0, "reference_logprobs": -1.0}
WORDS = ["how", "do", "i", "bake", "bread", "mix", "flour", "."]


def rollout_rows(step: int, rank: int) -> pa.Table:
    """Two samples: prompt ``<bos> how do i bake``, response ``mix flour . <eos>``."""
    ids, size = [2, 6, 7, 8, 9, 11, 12, 13, 3], 4
    return pa.table(
        {
            "request_id": [f"ppo-{step}-{rank}-{row}" for row in range(2)],
            "prompt_id": ["bread", "bread"],
            "step": pa.array([step] * 2, pa.int32()),
            "weight_version": pa.array([step] * 2, pa.int32()),
            "generator": ["generator-0"] * 2,
            "finish_reason": ["stop", "length"],
            "prompt_length": pa.array([5, 5], pa.int32()),
            "response_length": pa.array([size] * 2, pa.int32()),
            "token_ids": pa.array([ids, ids], pa.list_(pa.int32())),
            "reward": pa.array([1.5, 0.25], pa.float32()),
            "cost/harm": pa.array([-2.0, 3.0], pa.float32()),
            "applies/harm": [False, True],
            "multiplier/harm": [0.75, 0.75],
            **{
                name: pa.array([np.linspace(low, -0.1, size).tolist()] * 2, pa.list_(pa.float32()))
                for name, low in (
                    ("behaviour_logprobs", -2.0),
                    ("proximal_logprobs", -2.0),
                    ("reference_logprobs", -1.0),
                )
            },
            "advantages": pa.array([[1.5, -1.25, 0.01, 0.5]] * 2, pa.list_(pa.float32())),
            "advantages/reward": pa.array([[1.0, -1.0, 0.0, 0.5]] * 2, pa.list_(pa.float32())),
            "advantages/cost/harm": pa.array([[0.1, 0.2, 0.3, 0.4]] * 2, pa.list_(pa.float32())),
            "values/reward": pa.array([[0.0] * size] * 2, pa.list_(pa.float32())),
        }
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs") / "quickstart"
    layout = RunLayout(root)
    layout.rollouts.mkdir(parents=True)
    for step in range(2):
        for rank in range(2):
            pq.write_table(rollout_rows(step, rank), layout.rollouts / f"step-{step:05d}-rank{rank}.parquet")
    (layout.rollouts / ".step-00002-rank0.parquet.partial").write_text("half written")
    build_tokenizer(WORDS, 64).save_pretrained(str(layout.sft))
    return root


def test_a_sample_is_told_token_by_token(run: Path) -> None:
    story = explain(run, "ppo-1-0-1")
    assert (story.step, story.prompt, story.response) == (1, "<bos> how do i bake", "mix flour . <eos>")
    assert (story.reward, story.costs, story.multipliers) == (0.25, {"harm": 3.0}, {"harm": 0.75})
    assert [token.advantage for token in story.tokens] == pytest.approx([1.5, -1.25, 0.01, 0.5])
    assert set(story.tokens[0].signal_advantages) == {"reward", "cost/harm"}
    assert story.tokens[0].kl == pytest.approx(-2.0 - -1.0)


def test_the_terminal_shows_scores_and_every_token(run: Path) -> None:
    console = Console(width=120, record=True, color_system="standard", force_terminal=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render(explain(run, "ppo-0-1-0")))
    text = console.export_text()
    for part in (
        "flour",
        "-1.250",
        "+1.500",
        "multiplier 0.750",
        "(safe)",
        "does not cover this prompt",
        "A cost/harm",
    ):
        assert part in text


def test_an_unknown_id_is_one_line_with_close_ones_and_the_way_to_list(run: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        explain(run, "ppo-1-0-7")
    assert "ppo-1-0-1" in str(caught.value)
    assert "--list" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_samples_are_listed_by_step(run: Path) -> None:
    assert len(list_samples(run)) == 8
    rows = list_samples(run, step=1)
    assert [row["request_id"] for row in rows] == ["ppo-1-0-0", "ppo-1-0-1", "ppo-1-1-0", "ppo-1-1-1"]
    assert rows[1]["cost/harm"] == 3.0


def test_a_run_without_rollouts_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rollouts"):
        explain(tmp_path, "x")


def test_the_command_prints_json_for_scripts(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import typer

    from cluster.commands.why import why

    monkeypatch.chdir(run.parent)
    app = typer.Typer()
    app.command()(why)
    result = CliRunner().invoke(app, ["quickstart", "--sample", "ppo-0-0-0", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["tokens"][1]["token"] == "flour"
    listed = CliRunner().invoke(app, ["quickstart", "--list", "--step", "0"])
    assert "ppo-0-1-1  step 0  reward +0.25  cost/harm +3.00" in listed.output
