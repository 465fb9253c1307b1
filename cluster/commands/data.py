"""`steelyard data`: look at preference data, and write it in another format."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cluster.commands.common import AsJson

app = typer.Typer(
    no_args_is_help=True,
    help="Preference data from files or the hub: what is in it, and in other formats.",
    rich_markup_mode=None,
)


class RankChoice(StrEnum):
    """Which ranking of a pair."""

    BETTER = "better"
    SAFER = "safer"


@app.command(
    name="check",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def check(context: typer.Context) -> None:
    """Count, measure and question preference data; bad rows go to a file of their own."""
    from cluster.commands.data_check import check as command

    inner = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None, add_completion=False)
    inner.command(name="check")(command)
    inner(args=context.args, prog_name="steelyard data check")


@app.command()
def formats(as_json: AsJson = False) -> None:
    """List the formats that are read and written."""
    from learner.data.formats import FORMATS, TARGETS

    if as_json:
        rows = [
            {
                "name": name,
                "summary": target_format.summary,
                "read": name in FORMATS,
                "fields": sorted(target_format.known),
            }
            for name, target_format in TARGETS.items()
        ]
        typer.echo(json.dumps(rows))
        return
    width = max(map(len, TARGETS))
    for name, target_format in TARGETS.items():
        typer.echo(f"{name:<{width}}  {target_format.summary}")


@app.command()
def convert(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A file, folder, pattern, or hub:owner/name@revision.")
    ],
    target: Annotated[
        Path, typer.Argument(metavar="TARGET", help="A .parquet, .jsonl or .jsonl.gz; prompts also .csv.")
    ],
    to: Annotated[str, typer.Option("--to", help="The target's format; see: steelyard data formats.")] = "native",
    format: Annotated[str | None, typer.Option("--format", help="The source's format; else it is looked for.")] = None,
    split: Annotated[str | None, typer.Option("--split", help="Of a folder, a pattern or the hub: this split.")] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="Of the hub: a commit, tag or branch.")] = None,
    rank: Annotated[
        RankChoice | None, typer.Option("--rank", help="Which ranking a target that holds one takes (hh_rlhf, trl).")
    ] = None,
    ranking: Annotated[
        RankChoice | None,
        typer.Option("--ranking", help="What the order of HH-RLHF's pairs ranks; else its name says it."),
    ] = None,
    lossy: Annotated[bool, typer.Option("--lossy", help="Drop fields that the target has no place for.")] = False,
    aggregate: Annotated[
        bool, typer.Option("--aggregate", help="One row per response, with the majority of its labels (BeaverTails).")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a target that is there.")] = False,
    row_group: Annotated[int, typer.Option("--row-group", min=1, help="Rows of a part, and of a row group.")] = 2048,
    as_json: AsJson = False,
) -> None:
    """Write SOURCE in another format; what was interrupted goes on. Bad rows go to quarantine.parquet next to TARGET."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from configs.exits import StoppedError
    from learner.data.convert import convert as convert_data

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} rows of {task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(Path(source).name, total=None)
        try:
            report = convert_data(
                source,
                target,
                to=to,
                format=format,
                revision=revision,
                split=split,
                rank=None if rank is None else rank.value,
                ranking=None if ranking is None else ranking.value,
                lossy=lossy,
                aggregate=aggregate,
                overwrite=overwrite,
                row_group=row_group,
                progress=lambda rows: bar.update(task, completed=rows),
            )
        except KeyboardInterrupt as error:
            raise StoppedError(f"stopped; {target} is not written yet: the same command goes on") from error
    dropped = ", ".join(report.dropped_fields)
    summary_lines = [f"{report.rows} rows read as {report.source_format}, {report.written} written to {target} as {to}"]
    summary_lines += [f"{report.merged} labellings of the same responses taken together"] if report.merged else []
    summary_lines += [f"left out: {dropped}"] if dropped else []
    summary_lines += [f"{report.quarantined} rows are in {report.quarantine} instead"] if report.quarantined else []
    for line in summary_lines:
        typer.echo(line, err=True)
    if as_json:
        counts = {"rows": report.rows, "written": report.written, "quarantined": report.quarantined}
        answer = {"source": source, "target": str(target), "from": report.source_format, "to": to, **counts}
        answer |= {"merged": report.merged, "dropped_fields": list(report.dropped_fields)}
        typer.echo(json.dumps(answer | {"quarantine": str(report.quarantine) if report.quarantine else None}))
