"""`steelyard certify --simulate`."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from cluster.commands.main import app

SMALL = ("certify", "--simulate", "--simulations", "20", "--rate", "0.06", "--correlation", "0.3", "--clusters", "20")


def test_the_coverage_table_is_json_for_a_script() -> None:
    done = CliRunner().invoke(app, [*SMALL, "--json"])
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)
    assert (row["rate"], row["correlation"], row["clusters"]) == (0.06, 0.3, 20)
    assert 0.9 <= row["coverage"] <= 1.0 and row["false_certificates"] <= 0.1


def test_the_coverage_table_is_readable() -> None:
    done = CliRunner().invoke(app, SMALL)
    assert done.exit_code == 0 and "conversations" in done.stdout and "6 %" in done.stdout
