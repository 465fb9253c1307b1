"""Calibrate on one configuration, then measure it and another one in turn, each against what its plan says.

    python -m cluster.resources.planning.benchmark [--turns 3] [--out FILE] CONFIG -- CONFIG [key=value ...]

Every turn starts a configuration's actors again and takes steps on made-up prompts (`cluster.resources.planning.trial`). The figures are
medians over the turns' medians. The machine should have nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.resources.connection import join_own_head
from cluster.resources.planning.hardware import read_cluster
from cluster.resources.planning.plan import Question, make_plan
from cluster.resources.planning.sizes import shape_of
from cluster.resources.planning.workload import read_workload
from configs.exits import SteelyardError
from configs.layout import RunLayout
from configs.load import load_settings
from configs.schema.run import RunSettings

if TYPE_CHECKING:
    from cluster.resources.planning.trial import StepSeconds

WARM, STEPS = 2, 6


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one JSON object: measured and predicted seconds of both configurations."""
    command_line = list(sys.argv[1:] if arguments is None else arguments)
    cut = command_line.index("--") if "--" in command_line else len(command_line)
    parser = argparse.ArgumentParser(
        prog="python -m cluster.resources.planning.benchmark", description=__doc__.splitlines()[0]
    )
    parser.add_argument("config", nargs="+")
    parser.add_argument("--gpu", default="cpu:2")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--prompt-tokens", type=float)
    parser.add_argument("--response-tokens", type=float)
    options = parser.parse_args(command_line[:cut])
    second_config = command_line[cut + 1 :] or options.config
    try:
        figures = _compare(options, options.config, second_config)
    except SteelyardError as error:
        sys.stderr.write(f"error: {error}\n")
        return int(error.exit_code)
    text = json.dumps(figures, indent=1)
    sys.stdout.write(text + "\n")
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")
    return 0


def _compare(options: argparse.Namespace, first: Sequence[str], second: Sequence[str]) -> dict[str, object]:
    questions = {}
    for name, config in (("calibrated on", first), ("another", second)):
        settings = load_settings(config[0], config[1:])
        lengths = {"prompt_tokens": options.prompt_tokens, "response_tokens": options.response_tokens}
        work = read_workload(settings, **lengths)
        machine = read_cluster(options.gpu, 1)
        questions[name] = settings, Question(settings.resources, shape_of(settings, None), work, machine)
    join_own_head(Path.cwd() / "runs")
    from cluster.resources.planning.calibrate import calibrate_here, work_at
    from cluster.resources.planning.trial import median_step

    settings, question = questions["calibrated on"]
    rates = calibrate_here(settings, question, say=_say)
    measured: dict[str, list[StepSeconds]] = {name: [] for name in questions}
    for turn in range(options.turns):
        for name, (settings, question) in questions.items():
            _say(f"turn {turn + 1} of {options.turns}: {name}")
            measured[name].append(median_step(_steps(settings, question)))
    figures: dict[str, object] = {"rates": rates.to_document()}
    for name, (_, question) in questions.items():
        middle = median_step(measured[name])
        plan = make_plan(replace(question, work=work_at(question.work, middle), rates=rates))
        seconds = statistics.median(step.total for step in measured[name])
        figures[name] = {
            "model": question.shape.parameters,
            "batch": middle.batch,
            "measured": seconds,
            "predicted": plan.step_seconds,
            "off_by": plan.step_seconds / seconds - 1,
            "turns": [asdict(step) | {"total": step.total} for step in measured[name]],
            "phases": {phase.name: [getattr(middle, phase.name), phase.seconds] for phase in plan.phases},
        }
    return figures


def _steps(settings: RunSettings, question: Question) -> list[StepSeconds]:
    from cluster.resources.connection import warm_engines
    from cluster.resources.planning.trial import Trial, trial_settings

    trial = trial_settings(settings)
    with tempfile.TemporaryDirectory(prefix=".benchmark-", dir=_runs()) as folder:
        layout = RunLayout(Path(folder))
        with warm_engines(trial, layout) as (engines, _):
            actors = Trial(trial, question.work, engines, Path(folder), question.shape.vocabulary)
            return [actors.step(question.work.batch) for _ in range(WARM + STEPS)][WARM:]


def _runs() -> Path:
    runs = Path.cwd() / "runs"
    runs.mkdir(exist_ok=True)
    return runs


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
