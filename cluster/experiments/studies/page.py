"""The studies' part of docs/results.md, written from the rows alone. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.experiments.results.markdown import markdown_table
from cluster.experiments.results.table import ArmRows
from cluster.experiments.studies.effects import Finding
from cluster.experiments.studies.standing import StudyStanding

_INTRODUCTION = """## The claims

Claims of the papers, and a control, each tried by `steelyard study NAME` on three seeds. Claims, effects and bounds were
written down before the arms ran ([catalogue](../cluster/experiments/studies/catalogue.py)); two rules came after: the divided level,
without which (f) would be *not supported here*, and what (o) says of itself. An effect is taken within each seed; its
interval is a 95 % Student t interval over seeds, so three seeds show only what is large next to their spread. *Supported
here*: every effect's interval is wholly on the claimed side of its bound; *not supported here*: one of them is wholly on the
other, at a level divided by the number of effects, each of which alone can fail the claim; else *undecided here*. Here is the
sandbox: a language of 150 words and models of less than a million weights."""


def studies_part(standings: Sequence[StudyStanding]) -> str:
    """The section: every verdict's line first, then each study with its effects by seed."""
    lines = "\n".join(f"- {standing.line}" for standing in standings)
    return "\n\n".join([_INTRODUCTION, lines, *(_study(standing) for standing in standings)])


def _study(standing: StudyStanding) -> str:
    study = standing.study
    parts = [
        f"### ({study.letter}) {study.name}",
        study.claim,
        study.note,
        _effects(standing.findings),
        _arms(standing),
    ]
    if standing.missing:
        runs = len(study.cells())
        parts.append(
            f"{runs - len(standing.missing)} of {runs} rows are there and fresh; `steelyard study {study.name}` goes on."
        )
    return "\n\n".join(part for part in parts if part)


def _effects(findings: Sequence[Finding]) -> str:
    seeds = sorted({seed for finding in findings for seed in finding.by_seed})
    if not seeds:
        return ""
    head = ["effect", "claim", *(f"seed {seed}" for seed in seeds), "mean", "says"]
    lines = [
        [
            finding.effect.title,
            finding.effect.claim_text,
            *(finding.effect.text(finding.by_seed[seed]) if seed in finding.by_seed else "–" for seed in seeds),
            finding.text().removeprefix(finding.effect.title).strip(" :"),
            str(finding.verdict_among(len(findings))),
        ]
        for finding in findings
    ]
    return markdown_table(head, lines, text_columns=2)


def _arms(standing: StudyStanding) -> str:
    """Every arm's own figures: means over seeds with their standard deviation."""
    study, lines = standing.study, []
    for arm in study.arms:
        rows = {cell.seed: row for cell, row in standing.rows.items() if cell.arm == arm}
        if rows:
            arm_rows = ArmRows(arm, arm, rows)
            lines.append([f"`{arm}`", ", ".join(map(str, sorted(rows))), *map(arm_rows.text, study.shows)])
    head = ["arm", "seeds", *(figure.heading for figure in study.shows)]
    return markdown_table(head, lines, text_columns=2) if lines else ""
