"""`steelyard doctor`: what is missing on this machine, and how to fix it."""

from __future__ import annotations

import json

import typer

from cluster.commands.common import AsJson
from configs.exits import Exit

_MARKS = {"ok": "ok  ", "note": "note", "missing": "MISS"}


def doctor(as_json: AsJson = False) -> None:
    """Say what is missing on this machine and how to fix it; exit 6 if a run cannot work."""
    from cluster.resources.doctor import examine

    findings = examine()
    if as_json:
        typer.echo(json.dumps([finding.model_dump() for finding in findings], indent=1))
    else:
        for finding in findings:
            fix = f" → {finding.fix}" if finding.fix else ""
            typer.echo(f"{_MARKS[finding.verdict]}  {finding.subject}: {finding.found}{fix}")
    missing = sum(finding.verdict == "missing" for finding in findings)
    if not as_json:
        typer.echo(f"{missing} missing" if missing else "nothing is missing")
    if missing:
        raise typer.Exit(int(Exit.UNSATISFIABLE))
