"""Names on the hub, and streaming through `datasets` from a folder that stands in for it; nothing here uses a network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from configs.exits import ConfigError
from learner.data.files import HubName, hub_name
from learner.data.formats import FORMATS, Opened, read_opened
from learner.data.hub import hub_split, read_hub
from tests.learner.data import made_up as m


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("hub:a/b", HubName("a/b", None, None, None)),
        ("hub:a/b@1f", HubName("a/b", None, None, "1f")),
        ("hub:Org/hh-rlhf/harmless-base@refs/pr/3", HubName("Org/hh-rlhf", "harmless-base", None, "refs/pr/3")),
        ("hub:a/b.c/d/e:conf-7b@v1.0", HubName("a/b.c", "d/e", "conf-7b", "v1.0")),
        ("a/b", None),
    ],
)
def test_names(source: str, place: HubName | None) -> None:
    assert hub_name(source) == place
    assert place is None or str(place) == source


def test_wrong_names() -> None:
    for wrong in ("hub:", "hub:a", "hub:a/../b", "hub:https://a/b", "hub:a b/c", "hub:a/b@"):
        with pytest.raises(ConfigError, match="no name on the hub"):
            hub_name(wrong)
    assert hub_name("hub:a/b@x", "x") == hub_name("hub:a/b", "x")
    with pytest.raises(ConfigError, match="two revisions"):
        hub_name("hub:a/b@x", "y")


@pytest.fixture
def place(tmp_path: Path) -> HubName:
    """A folder of two splits that `datasets` reads as it would the hub."""
    (tmp_path / "train.jsonl").write_bytes(m.jsonl(*(m.pku(number) for number in range(1, 6))))
    (tmp_path / "test.jsonl").write_bytes(m.jsonl(m.pku(9)))
    return HubName(str(tmp_path), None, None, None)


def test_streaming(place: HubName) -> None:
    with pytest.raises(ConfigError, match="which split"):
        hub_split(place, None)
    with pytest.raises(ConfigError, match="no split 'validation'; it has"):
        hub_split(place, "validation")
    opened = Opened(str(place), (), place, hub_split(place, "train"))
    parsed = list(read_opened(opened))
    assert [each.row for each in parsed] == [1, 2, 3, 4, 5]
    assert all(each.record and not each.findings and each.file == f"{place}/train" for each in parsed)
    assert [raw.row for raw in read_hub(place, "train", 3)] == [4, 5]
    assert list(read_opened(opened, start=(0, 4)))[0].record == parsed[4].record  # noqa: RUF015
    assert FORMATS["pku_saferlhf"].fits(next(read_hub(place, "test")).data)  # type: ignore[arg-type]


def test_no_network_is_one_line(tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "cluster.commands.main",
            "data",
            "convert",
            "hub:a/b@main",
            str(tmp_path / "out.parquet"),
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 4
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: hub:a/b@main: the hub cannot be reached")
    assert not (tmp_path / "out.parquet").exists()
