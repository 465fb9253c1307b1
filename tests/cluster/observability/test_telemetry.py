"""From a run's lines to series, to Prometheus's text, and to the sinks."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from cluster.observability.telemetry.export import registry_of, run_roots, serve, write_textfile
from cluster.observability.telemetry.live import Telemetry
from cluster.observability.telemetry.names import run_label
from cluster.observability.telemetry.series import SeriesStore, match, role_and_rank, store_of
from cluster.observability.telemetry.sinks import SinkError, SinkSet, open_sinks, require_packages
from cluster.run_folder.metrics_log import MetricsLog, NotFinite
from cluster.run_folder.status import GeneratorStatus, RunStatus, StageStatus
from configs.exits import ClusterError, ConfigError, DataError
from configs.layout import RunLayout
from configs.load import dump_settings, load_settings
from configs.metrics import BY_NAME
from configs.schema.run import RunSettings


def line(step: int, **figures: Any) -> dict[str, Any]:
    return {
        "step": step,
        "weight_version": step,
        "seconds": 4.0,
        "phase_seconds": {"rollout": 1.0, "learn": 2.0},
        "reward": 1.5,
        "kl": 0.25,
        "tokens": 400.0,
        "samples": 32,
        "generate_seconds": 0.5,
        "score_busy_seconds": 0.0,
        "limit/harm": 0.05,
        "measure/harm": 0.04,
        "multiplier/harm": 2.0,
        "staleness/0": 30,
        "staleness/3": 2,
        "critic_loss/cost/harm": 0.5,
        "actor_loss": -0.1,
        "ratio_q99": 1.2,
        "delta_logprob_max": 0.5,
        "quarantined": 1,
        "scorer_faults/cost/harm/not_finite": 1,
        "notes": {"delta_logprob_worst": "ppo-1"},
        **figures,
    }


STATUS = RunStatus(
    run="small",
    state="running",
    stages={"sft": StageStatus(state="done", seconds=3.5), "ppo": StageStatus(state="running")},
    step=2,
    steps=8,
    warnings=("one",),
    generators=(GeneratorStatus(name="generator-0", state="serving", weight_version=2),),
)


def settings_of(*overrides: str) -> RunSettings:
    return load_settings("quickstart", ["name=small", "ppo.kl_budget=3", *overrides])


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    layout = RunLayout(tmp_path / "small")
    layout.root.mkdir()
    layout.config.write_text(dump_settings(settings_of()))
    layout.metrics.write_text("".join(json.dumps(line(step)) + "\n" for step in (1, 2)))
    layout.status.write_text(STATUS.model_dump_json())
    return layout.root


def values(store: SeriesStore) -> dict[tuple[str, ...], float]:
    return {(name, *(text for _, text in labels[1:])): value for (name, labels), value in store.values.items()}


def test_a_line_sets_its_series_and_counts_up():
    found = values(store_of("small", settings_of(), [line(1), line(2, reward=1.75)], STATUS))
    assert found["steelyard_reward",] == 1.75
    assert found["steelyard_loss", "actor"] == -0.1
    assert found["steelyard_loss", "critic of cost/harm"] == 0.5
    assert found["steelyard_phase_seconds", "learn"] == 2.0
    assert found["steelyard_delta_logprob", "1"] == 0.5
    assert found["steelyard_samples",] == 64
    assert found["steelyard_scorer_faults", "cost/harm/not_finite"] == 2
    assert found["steelyard_multiplier_cap", "harm"] == 6.0
    assert found["steelyard_kl_budget",] == 3.0
    assert found["steelyard_samples_per_second", "generator"] == 64.0
    assert found["steelyard_tokens_per_second", "loop"] == 100.0
    assert ("steelyard_samples_per_second", "scorer") not in found  # no time, no rate
    assert found["steelyard_run_state", "running"] == 1.0 and found["steelyard_run_state", "failed"] == 0.0
    assert found["steelyard_stage_state", "ppo"] == 1.0 and ("steelyard_stage_seconds", "ppo") not in found
    assert found["steelyard_generator_weight_version", "generator", "0"] == 2.0


def test_steps_above_the_limit_are_counted_in_a_row_and_from_anew_in_each_round():
    measures: list[float | None] = [0.06, 0.07, None, 0.08]
    lines = [line(step, **{"measure/harm": value}) for step, value in enumerate(measures, start=1)]
    assert values(store_of("r", settings_of(), lines, None))["steelyard_violated_steps", "harm"] == 3  # none: unchanged
    kept = [*lines, line(5)]
    assert values(store_of("r", settings_of(), kept, None))["steelyard_violated_steps", "harm"] == 0
    second_round = [*lines, line(1, **{"measure/harm": 0.06})]
    assert values(store_of("r", settings_of(), second_round, None))["steelyard_violated_steps", "harm"] == 1
    assert values(store_of("r", settings_of(), lines, None))["steelyard_slack", "harm"] == pytest.approx(-0.03)


def test_keys_find_their_series_and_strangers_none():
    found = match("explained_variance/cost/harm")
    assert found is not None and (found[0].name, found[1]) == ("steelyard_explained_variance", {"signal": "cost/harm"})
    assert match("advantage_std") is not None
    assert match("no_such_figure") is None and match("explained_variance/") is None
    assert role_and_rank("scorer-cost-harm") == ("scorer", "cost-harm")


def test_a_series_takes_no_other_labels_than_the_catalogue_says():
    with pytest.raises(AssertionError, match="steelyard_slack has the labels"):
        SeriesStore("r").put("steelyard_slack", 1.0, part="x")


def test_an_arm_is_called_after_its_comparison(tmp_path: Path):
    assert run_label(tmp_path / "tension" / "arms" / "papers-seed0") == "tension/papers-seed0"
    assert run_label(tmp_path / "quickstart") == "quickstart"


# --- exporter ---------------------------------------------------------------------------------------------------------


def test_the_exporter_serves_a_run_on_loopback_and_reads_it_anew(run_folder: Path):
    server, _ = serve([run_folder], 0)
    try:
        assert server.server_address[0] == "127.0.0.1"
        url = f"http://127.0.0.1:{server.server_port}/metrics"
        text = urllib.request.urlopen(url).read().decode()
        assert 'steelyard_samples_total{run="small"} 64.0' in text
        assert 'steelyard_sample_staleness_bucket{le="0.5",run="small"} 60.0' in text
        assert 'steelyard_sample_staleness_bucket{le="+Inf",run="small"} 64.0' in text
        assert 'steelyard_slack{constraint="harm",run="small"}' in text
        with RunLayout(run_folder).metrics.open("a") as file:
            file.write(json.dumps(line(3)) + "\n" + '{"step": 4, "rew')  # a line that is being written
        assert 'steelyard_samples_total{run="small"} 96.0' in urllib.request.urlopen(url).read().decode()
    finally:
        server.shutdown()
        server.server_close()


def test_a_taken_port_is_one_line(run_folder: Path):
    server, _ = serve([run_folder], 0)
    try:
        with pytest.raises(ClusterError, match=f"port {server.server_port} on 127.0.0.1: .*--port"):
            serve([run_folder], server.server_port)
    finally:
        server.shutdown()
        server.server_close()


def test_a_comparison_is_its_arms(run_folder: Path):
    arms = run_folder / "arms"
    shutil.copytree(run_folder, arms / "one-seed0")
    assert run_roots(run_folder) == [arms / "one-seed0"]


def test_a_broken_line_and_a_folder_without_a_run_are_named(run_folder: Path, tmp_path: Path):
    with pytest.raises(DataError, match=r"no config\.resolved\.yaml"):
        registry_of([tmp_path])
    RunLayout(run_folder).metrics.write_text("{}}\n")
    with pytest.raises(DataError, match=r"metrics\.jsonl, line 1: not JSON"):
        write_textfile([run_folder], tmp_path / "run.prom")


def test_promtool_finds_nothing_to_say_about_the_text(run_folder: Path, tmp_path: Path):
    if shutil.which("promtool") is None:
        pytest.skip("no promtool here (Debian: apt-get install prometheus)")
    write_textfile([run_folder], tmp_path / "run.prom")
    text = (tmp_path / "run.prom").read_text()
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# --- sinks ------------------------------------------------------------------------------------------------------------


def test_tensorboard_gets_every_figure(tmp_path: Path):
    settings = settings_of("tracking.tensorboard={}")
    sinks = open_sinks(settings, RunLayout(tmp_path / "small"), pytest.fail)
    sinks.step(7, {"reward": 1.5, "measure/harm": 0.25})
    sinks.close("finished")
    assert read_scalars(tmp_path / "small" / "tensorboard") == {("reward", 7): 1.5, ("measure/harm", 7): 0.25}


def test_tensorboard_may_have_a_folder_for_many_runs(tmp_path: Path):
    settings = settings_of(f"tracking.tensorboard.folder={tmp_path}/board")
    sinks = open_sinks(settings, RunLayout(tmp_path / "small"), pytest.fail)
    sinks.step(1, {"reward": 2.0})
    sinks.close("finished")
    assert read_scalars(tmp_path / "board" / "small") == {("reward", 1): 2.0}


def read_scalars(folder: Path) -> dict[tuple[str, int], float]:
    """Of TensorBoard's event files: length, its CRC, the event, its CRC."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in folder.glob("events.*"):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + length])
            found |= {(one.tag, event.step): round(one.simple_value, 6) for one in event.summary.value}
            data = data[16 + length :]
    return found


def test_wandb_offline_writes_into_the_run_folder(tmp_path: Path):
    pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    root = tmp_path / "small"
    root.mkdir()
    sinks = open_sinks(settings_of("tracking.wandb={}"), RunLayout(root), pytest.fail)
    sinks.step(1, {"reward": 1.5})
    sinks.close("finished")
    assert list((root / "wandb").glob("offline-run-*/*.wandb"))


def test_mlflow_gets_every_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    settings = settings_of(f"tracking.mlflow.uri=file://{tmp_path}/mlruns")
    sinks = open_sinks(settings, RunLayout(tmp_path / "small"), pytest.fail)
    sinks.step(1, {"measure/harm": 0.25})
    sinks.close("stopped")
    (written,) = tmp_path.glob("mlruns/*/*/metrics/measure/harm")
    assert written.read_text().split()[1:3] == ["0.25", "1"]


def test_a_sink_that_fails_is_dropped_with_one_warning():
    class Broken:
        name = "Broken"
        calls = 0

        def step(self, step: int, figures: dict[str, float]) -> None:
            self.calls += 1
            raise SinkError("the server is away")

        def close(self, state: str) -> None:
            pytest.fail("closed after it failed")

    warnings: list[str] = []
    broken = Broken()
    sinks = SinkSet([broken], warnings.append)
    for step in (1, 2):
        sinks.step(step, {})
    sinks.close("finished")
    assert broken.calls == 1
    assert warnings == ["Broken takes no more figures (the server is away); metrics.jsonl has them all"]


def test_a_relative_folder_means_the_one_you_are_in():
    settings = settings_of("tracking.tensorboard.folder=board")
    assert settings.tracking.tensorboard is not None
    assert settings.tracking.tensorboard.folder == Path.cwd() / "board"


def test_a_run_without_a_loop_has_nothing_to_track():
    with pytest.raises(ConfigError, match=r"tracking\.wandb: shows the steps of a loop, and dpo has none"):
        settings_of("algorithm=dpo", "tracking.wandb={}")


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch):
    folder = ModuleSpec("wandb", None)  # W&B's folder of runs where you are looks like this
    monkeypatch.setattr("cluster.observability.telemetry.sinks.find_spec", lambda module: folder)
    with pytest.raises(ConfigError, match=r"tracking\.wandb: the package wandb is not installed; .*steelyard\[wandb\]"):
        require_packages(settings_of("tracking.wandb={}"))
    require_packages(settings_of())


# --- live -------------------------------------------------------------------------------------------------------------


class Nobody:
    """Engines that were never started."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def generator_states(self) -> list[dict[str, Any]]:
        return [{"name": "generator-1", "state": "dead", "weight_version": 0}]

    def queue_depths(self) -> dict[str, int]:
        return {"requests_waiting": 3}


def test_a_resumed_round_goes_on_counting_and_restarts_are_of_this_attempt(tmp_path: Path):
    from actors.events import ActorEvent

    engines = Nobody()
    engines.events.append(ActorEvent("generator-1", "restarting"))  # of an earlier arm on the same engines
    telemetry = Telemetry(settings_of(), RunLayout(tmp_path), engines, None)
    telemetry.begin_round(1, [line(1), line(2)])
    telemetry.step(line(3))
    engines.events += [ActorEvent("generator-1", "died"), ActorEvent("generator-1", "restarting")]
    telemetry.close()
    found = values(telemetry.store)
    assert found["steelyard_samples",] == 96
    assert found["steelyard_actor_restarts", "generator", "1"] == 1
    assert found["steelyard_queue_depth", "requests_waiting"] == 3
    assert found["steelyard_generator_serving", "generator", "1"] == 0
    assert 0 < found["steelyard_storage_free_bytes",] < found["steelyard_storage_bytes",]


def test_the_clocks_of_step_and_checkpoint_start_with_the_loop_of_each_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A loop prepares for a while: until its first step nobody shall think that it has been silent since the last round's."""
    now = [100.0]
    monkeypatch.setattr("cluster.observability.telemetry.live.time.time", lambda: now[0])
    telemetry = Telemetry(settings_of(), RunLayout(tmp_path), Nobody(), None)

    def clocks(**fields: Any) -> tuple[float, float]:
        telemetry.status(STATUS.model_copy(update=fields))
        found = values(telemetry.store)
        return found["steelyard_step_timestamp_seconds",], found["steelyard_checkpoint_timestamp_seconds",]

    assert clocks(stage="ppo") == (100, 100)
    now[0] = 200.0
    telemetry.step(line(1))
    assert clocks(stage="ppo", step=1) == (200, 100)
    now[0] = 5000.0
    assert clocks(stage="round-2/sft") == (200, 100)
    assert clocks(stage="round-2/ppo") == (5000, 5000)
    now[0] = 6000.0
    assert clocks(stage="round-2/ppo", message="waiting") == (5000, 5000)
    telemetry.begin_round(2, [])
    assert clocks(stage="round-2/ppo") == (6000, 6000)


def test_a_figure_that_is_not_finite_is_seen(tmp_path: Path):
    telemetry = Telemetry(settings_of(), RunLayout(tmp_path), Nobody(), None)
    telemetry.failed(DataError("something else"))
    assert values(telemetry.store)["steelyard_not_finite",] == 0
    with pytest.raises(NotFinite, match="step 1: the metrics kl are not finite") as raised:
        MetricsLog(tmp_path / "metrics.jsonl").append({"step": 1, "kl": float("nan")})
    telemetry.failed(raised.value)
    assert values(telemetry.store)["steelyard_not_finite",] == 1


def test_every_line_key_of_a_kind_has_bounded_labels():
    store = store_of("small", settings_of(), [line(1)], STATUS)
    for name, labels in store.values:
        assert tuple(label for label, _ in labels) == ("run", *BY_NAME[name].labels)
