"""The `steelyard` command. `--help` imports no engine: every verb imports what it needs when it runs."""

from __future__ import annotations

import importlib
import sys

import typer

from cluster.commands import config, data, demo, doctor, evaluate, fetch, head, plan, results, run, study, submit
from cluster.commands.guard import guarded

app = typer.Typer(
    name="steelyard",
    help="Constrained RLHF on Ray: as helpful as possible while harm stays under a limit you choose.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_FORWARD = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

app.command(name="demo")(demo.demo)
app.command(name="run")(run.run)
app.command(name="submit")(submit.submit)
app.command(name="fetch")(fetch.fetch)


@app.command(name="report", context_settings=_FORWARD, add_help_option=False)
def report(context: typer.Context) -> None:
    """Write the HTML report of a run again."""
    _forward("report", context.args)


@app.command(name="why", context_settings=_FORWARD, add_help_option=False)
def why(context: typer.Context) -> None:
    """Show one sample: reward, costs, multipliers, and the advantage of every token."""
    _forward("why", context.args)


@app.command(name="threshold", context_settings=_FORWARD, add_help_option=False)
def threshold(context: typer.Context) -> None:
    """Choose a constraint's limit from the harmful rate you want."""
    _forward("threshold", context.args)


@app.command(name="certify", context_settings=_FORWARD, add_help_option=False)
def certify(context: typer.Context) -> None:
    """Show how far the certificate can be trusted, by simulation."""
    _forward("certify", context.args)


@app.command(name="chat", context_settings=_FORWARD, add_help_option=False)
def chat(context: typer.Context) -> None:
    """Talk to the models of a run, side by side."""
    _forward("chat", context.args)


@app.command(name="label", context_settings=_FORWARD, add_help_option=False)
def label(context: typer.Context) -> None:
    """Label answers in a browser, for `eval` and runs that people judge."""
    _forward("label", context.args)


@app.command(name="redteam", context_settings=_FORWARD, add_help_option=False)
def redteam(context: typer.Context) -> None:
    """Attack models with a suite, and look for attacks that work better."""
    _forward("redteam", context.args)


@app.command(name="export", context_settings=_FORWARD, add_help_option=False)
def export(context: typer.Context) -> None:
    """Show a run's figures to Prometheus, from its folder."""
    _forward("export", context.args)


@app.command(name="metrics", context_settings=_FORWARD, add_help_option=False)
def metrics(context: typer.Context) -> None:
    """List every series that a run gives to Prometheus."""
    _forward("metrics", context.args)


@app.command(name="monitor", context_settings=_FORWARD, add_help_option=False)
def monitor(context: typer.Context) -> None:
    """Start Prometheus and Grafana with our rules and dashboards."""
    _forward("monitor", context.args)


app.command(name="eval")(evaluate.evaluate)
app.command(name="study")(study.study)
app.command(name="plan")(plan.plan)
app.command(name="doctor")(doctor.doctor)
app.add_typer(results.app, name="results")
app.add_typer(config.app, name="config")
app.add_typer(data.app, name="data")
app.add_typer(head.app, name="head")


def main() -> None:
    """Entry point of the console script."""
    sys.exit(guarded(app))


def _forward(verb: str, arguments: list[str]) -> None:
    """Hand the rest of the line to `cluster.commands.<verb>`, whose function of that name is the command."""
    inner = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None, add_completion=False)
    inner.command(name=verb)(getattr(importlib.import_module(f"cluster.commands.{verb}"), verb))
    inner(args=arguments, prog_name=f"steelyard {verb}")


if __name__ == "__main__":
    main()
