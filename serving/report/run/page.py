"""Rendering: a run's blocks through the template into one file.

Invariant: the page asks nothing of the outside. Styles, script and pictures are inside, and a content security policy
refuses everything else; only the report's own script may run (by its hash), whatever a model's output holds.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from configs.exits import DataError
from configs.layout import RunLayout
from serving.report.blocks import wording as labels
from serving.report.blocks.blocks import Page, Tile, cell_figure, plain
from serving.report.blocks.wording import KIND_NAMES
from serving.report.by_gold.conversations import AGREEMENTS, choose_conversations, choose_judged
from serving.report.by_models.conversations import choose_scored, filters_of
from serving.report.by_models.results import scored_tiles
from serving.report.run.sections import run_sections
from serving.report.run_files import RunFiles, read_run

ASSETS = Path(__file__).parents[1] / "assets"
TILES = (
    ("Harm rate, harmful prompts", "harm_rate_harmful"),
    ("Helpfulness, benign", "helpfulness_benign"),
    ("Helpfulness, look-alikes", "helpfulness_lookalike"),
    ("Bare refusals, benign", "refusal_benign"),
)
"""Headline figures, all of seen tasks and forms."""


def write_report(run_root: Path) -> Path:
    """Write ``report.html`` of a run, finished or not; returns its path.

    Raises:
        DataError: there is no such run folder, or the report cannot be written.
    """
    page = build_page(read_run(run_root))
    return write_page(page, RunLayout(run_root).report)


def build_page(run: RunFiles) -> Page:
    """Everything a run's page shows."""
    name = str(run.settings.get("name") or run.layout.root.name)
    if run.on_data:
        return _scored_page(run, name)
    scored = [replace(sample, model="policy") for sample in run.judged]
    conversations = [*choose_conversations(run.samples), *choose_judged(scored)]
    filters = {
        "split": [split for split in labels.SPLIT_NAMES if any(c.prompt.split == split for c in conversations)],
        "kind": [kind for kind in KIND_NAMES if any(c.prompt.kind == kind for c in conversations)],
        "model": list(dict.fromkeys(answer.model for c in conversations for answer in c.answers)),
        "agreement": [
            agreement for agreement in AGREEMENTS if any(agreement in c.agreements.split("\n") for c in conversations)
        ],
    }
    verdict, tone, subtitle = _head(run)
    return Page(
        title=f"Steelyard: {name}",
        verdict=verdict,
        tone=tone,
        subtitle=subtitle,
        tiles=_tiles(run),
        sections=run_sections(run),
        conversations=conversations,
        filters=filters,
    )


def _scored_page(run: RunFiles, name: str) -> Page:
    """The page of a run that its own score models judged."""
    verdict, tone, subtitle = _head(run)
    conversations = choose_scored(run.answers, run.labelled or frozenset())
    return Page(
        title=f"Steelyard: {name}",
        verdict=verdict,
        tone=tone,
        subtitle=subtitle,
        tiles=[*scored_tiles(run.scored), *_throughput(run)],
        sections=run_sections(run),
        conversations=conversations,
        filters=filters_of(conversations),
        scored=True,
    )


def _head(run: RunFiles) -> tuple[str, Literal["good", "bad", "open"], str]:
    """Verdict, its tone, and the line below it."""
    summary = run.summary
    if summary is None:
        shown_round = f" Figures are of round {run.rounds[-1]['round']}, the last finished one." if run.rounds else ""
        return "The run is not finished", "open", run.missing.get("summary", "") + shown_round
    claimed = summary.certificate is not None
    tone: Literal["good", "bad", "open"] = "bad" if not summary.meets_limits else "good" if claimed else "open"
    subtitle = f"Seed {summary.seed}, {summary.seconds.get('total', 0.0) / 60:.1f} minutes in all."
    if summary.rounds:
        subtitle += f" {len(summary.rounds)} rounds; figures outside “Round by round” are the last one's."
    verdict = summary.verdict
    return (verdict[:1].upper() + verdict[1:]).replace(" %", "\u00a0%"), tone, subtitle


def write_page(page: Page, path: Path) -> Path:
    """Render and write atomically."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(render(page), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise DataError(f"{path}: the report cannot be written ({error.strerror})") from error
    return path


def render(page: Page) -> str:
    """The HTML text; every value is escaped by the template engine, save the package's own style and script."""
    script = (ASSETS / "filter.js").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        page=page,
        names={
            "kind": KIND_NAMES,
            "split": labels.SPLIT_NAMES,
            "outcome": labels.OUTCOME_NAMES,
            "model": labels.MODEL_NAMES,
            "agreement": AGREEMENTS,
        },
        style=(ASSETS / "style.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii"),
        missing_samples="The evaluated samples are not there, so no conversation can be shown.",
    )


def _tiles(run: RunFiles) -> list[Tile]:
    tiles = []
    for title, measure in TILES:
        figures: dict[str, Any] = {}
        for model in ("sft", "policy"):
            cell = run.evaluation.get(model, {}).get("seen", {}).get(measure)
            share = not measure.startswith("helpfulness")
            figures[model] = cell_figure(cell, share=share, key=f"evaluation.{model}.seen.{measure}")
        if figures["policy"].value is not None:
            before = figures["sft"] if figures["sft"].value is not None else None
            tiles.append(Tile(title, before, figures["policy"], "seen tasks and forms"))
    return [*tiles, *_throughput(run)]


def _throughput(run: RunFiles) -> list[Tile]:
    if run.summary is None or run.summary.ppo is None:
        return []
    rate = plain(run.summary.ppo.samples_per_second, 1)
    return [Tile("Samples per second, PPO", None, rate, f"{run.summary.ppo.steps} steps")]
