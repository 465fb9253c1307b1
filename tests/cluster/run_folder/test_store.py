"""A run's copy in a store: what is sent, what comes back, and what a store that was left behind means."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.job import _storage
from cluster.run_folder.remote_store import MARK, RunStore, kept, working_folder
from configs.exits import ConfigError
from configs.layout import RunLayout
from configs.load import dump_settings, load_settings


def make_run(root: Path, step: int = 1) -> None:
    (root / "rounds" / "1" / "evaluation").mkdir(parents=True, exist_ok=True)
    (root / "ray_train").mkdir(exist_ok=True)
    (root / "manifest.json").write_text(f"step {step}")
    (root / "status.json").write_text("{}")
    (root / "report.html").write_text("report")
    (root / "sft").mkdir(exist_ok=True)
    (root / "sft" / "model.safetensors").write_bytes(b"weights" * step)
    (root / "rounds" / "1" / "evaluation" / "evaluation.json").write_text("{}")
    (root / "ray_train" / "own").write_text("not ours")
    (root / ".status.json.1.2").write_text("half")


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(f"file://{tmp_path / 'bucket'}", "run")


def test_everything_but_scratch_is_sent_and_comes_back(tmp_path: Path, store: RunStore):
    make_run(tmp_path / "here" / "run")
    store.push(tmp_path / "here" / "run")
    assert store.names() == [
        MARK,
        "manifest.json",
        "report.html",
        "rounds/1/evaluation/evaluation.json",
        "sft/model.safetensors",
        "status.json",
    ]
    RunStore(f"file://{tmp_path / 'bucket'}", "run").pull(tmp_path / "there" / "run")
    assert (tmp_path / "there" / "run" / "sft" / "model.safetensors").read_bytes() == b"weights"


def test_what_changes_is_sent_again_and_what_goes_is_deleted(tmp_path: Path, store: RunStore):
    root = tmp_path / "run"
    make_run(root)
    store.push(root)
    make_run(root, step=2)
    (root / "report.html").unlink()
    store.push(root)
    assert store.read("sft/model.safetensors") == b"weightsweights"
    assert store.read("report.html") is None
    (root / "rounds" / "1" / "evaluation" / "evaluation.json").unlink()
    RunStore(f"file://{tmp_path / 'bucket'}", "run").push(root)  # a later process knows nothing of what was sent
    assert "rounds/1/evaluation/evaluation.json" not in store.names()


def test_a_folder_that_is_ahead_stays_and_one_that_is_behind_is_replaced(tmp_path: Path, store: RunStore):
    here, there = tmp_path / "here", tmp_path / "there"
    make_run(here)
    store.push(here)
    (here / "metrics.jsonl").write_text("written after the last sync")
    store.pull(here)
    assert (here / "metrics.jsonl").exists()
    store.pull(there)
    make_run(there, step=2)
    store.push(there)
    store.pull(here)
    assert (here / "manifest.json").read_text() == "step 2"
    assert not (here / "metrics.jsonl").exists()


def test_the_manifest_never_names_what_the_store_lacks(
    tmp_path: Path, store: RunStore, monkeypatch: pytest.MonkeyPatch
):
    root = tmp_path / "run"
    make_run(root)
    order: list[str] = []
    send, write = store._send, store.write
    monkeypatch.setattr(store, "_send", lambda root, name: (order.append(name), send(root, name)))
    monkeypatch.setattr(store, "write", lambda name, content: (order.append(name), write(name, content)))
    store.push(root)
    assert order[-3:] == ["manifest.json", "status.json", MARK]


def test_a_run_is_synced_at_its_end_also_when_it_fails(tmp_path: Path, store: RunStore):
    layout = RunLayout(tmp_path / "run")

    def fail() -> None:
        with kept(store, layout):
            make_run(layout.root)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert store.read("manifest.json") == b"step 1"


def test_fetch_brings_report_and_figures_and_no_models(tmp_path: Path, store: RunStore):
    make_run(tmp_path / "run")
    store.push(tmp_path / "run")
    names = {str(path.relative_to(tmp_path / "to")) for path in store.fetch(tmp_path / "to", everything=False)}
    assert names == {"report.html", "manifest.json", "status.json", "rounds/1/evaluation/evaluation.json"}


def test_an_unknown_kind_of_store_is_named():
    with pytest.raises(ConfigError, match=r"storage: nfs3://x: .*give a folder, or a URL such as s3://bucket/runs"):
        RunStore("nfs3://x", "run")


def test_a_url_is_worked_on_in_a_folder_and_survives_a_resolved_configuration(tmp_path: Path):
    url = f"file://{tmp_path}/bucket"
    settings = load_settings("quickstart", [f"storage={url}", f"scratch={tmp_path}/work"])
    (tmp_path / "resolved.yaml").write_text(dump_settings(settings))
    assert load_settings(tmp_path / "resolved.yaml") == settings
    folder, store = _storage(settings)
    assert folder == working_folder(url, tmp_path / "work") and folder.parent == tmp_path / "work"
    assert store is not None and store.url == f"{url}/quickstart"


def test_scratch_without_a_store_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="scratch: is where runs of a remote store are worked on"):
        load_settings("quickstart", [f"scratch={tmp_path}"])
