"""What the planner's tests ask, and made-up calibrations."""

from __future__ import annotations

from dataclasses import replace

from typer.testing import CliRunner

from cluster.commands.main import app
from cluster.resources.planning import hardware
from cluster.resources.planning.plan import Question
from cluster.resources.planning.rates import Rates, assumed_rates
from cluster.resources.planning.sizes import named_shape
from cluster.resources.planning.workload import read_workload
from configs.load import load_settings
from configs.schema.run import RunSettings


def beaver(*overrides: str) -> RunSettings:
    return load_settings("beaver_7b", overrides)


def question(settings: RunSettings, *, size: str = "7b", gpu: str = "h100:8", nodes: int = 1) -> Question:
    return Question(settings.resources, named_shape(size), read_workload(settings), hardware.read_cluster(gpu, nodes))


def measured(asked: Question, **changes: object) -> Rates:
    """Made-up figures of a calibration on these resources."""
    resources = asked.resources
    found = replace(
        assumed_rates(resources, asked.cluster),
        kind=asked.cluster.hardware.kind,
        dtype=resources.learner.dtype,
        decode_dtype=resources.generators.dtype,
        ranks=resources.learner.ranks,
        source="calibrated somewhere",
        learn_factor=0.7,
        learn_seconds=0.3,
    )
    return replace(found, **changes)


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["plan", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout
