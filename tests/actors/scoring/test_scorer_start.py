"""What a scorer's process is given."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from actors.scoring.start import absolute_folders


def test_relative_folders_of_a_search_path_mean_the_folder_where_the_run_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert absolute_folders(os.pathsep.join(["rules", "", "/opt/lib"])) == os.pathsep.join(
        [f"{tmp_path}/rules", "/opt/lib"]
    )
