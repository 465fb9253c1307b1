"""The sections of a run's report in reading order: tables of what came out, then plots, then where it came from."""

from __future__ import annotations

from typing import Any

from serving.report.blocks.blocks import Gallery, Note, Section
from serving.report.by_gold.elo_ladder import ladder_section
from serving.report.by_gold.hacking_gap import gap_section
from serving.report.by_gold.limitations import limitations_section
from serving.report.by_gold.pictures import gold_plane, score_planes
from serving.report.by_gold.results import (
    categories_section,
    certificate_section,
    finer_section,
    forms_section,
    outcomes_section,
    results_section,
)
from serving.report.by_models.results import (
    scored_categories,
    scored_limits,
    scored_planes,
    scored_promotion,
    scored_results,
)
from serving.report.by_models.trust import trust_sections
from serving.report.run.curves import curve_pictures
from serving.report.run.provenance import provenance_section, time_section
from serving.report.run.rollout_planes import rollout_planes
from serving.report.run.rounds import lineage_sections, rounds_sections
from serving.report.run.score_models import score_models_section
from serving.report.run_files import RunFiles, missing_note


def run_sections(run: RunFiles) -> list[Section]:
    """Every section but the verdict and the conversations; each says what is missing where it is."""
    if run.on_data:
        return [
            scored_results(run),
            *([certificate_section(run)] if run.summary is not None and run.summary.certificate is not None else []),
            scored_limits(run),
            *scored_promotion(run),
            _warnings(run),
            *rounds_sections(run),
            scored_planes(run),
            _curves(run),
            scored_categories(run),
            score_models_section(run),
            *lineage_sections(run),
            time_section(run),
            provenance_section(run),
        ]
    return [
        results_section(run),
        certificate_section(run),
        _warnings(run),
        *rounds_sections(run),
        *trust_sections(run),
        outcomes_section(run),
        finer_section(run),
        forms_section(run),
        _planes(run),
        _curves(run),
        gap_section(run),
        categories_section(run),
        ladder_section(run),
        score_models_section(run),
        *lineage_sections(run),
        limitations_section(run),
        time_section(run),
        provenance_section(run),
    ]


def _warnings(run: RunFiles) -> Section:
    if run.summary is None:
        return Section("warnings", "Warnings", [missing_note(run, "summary")])
    notes = [Note(text, tone="warning") for text in run.summary.warnings]
    return Section("warnings", "Warnings", notes or [Note("None.", tone="good")])


def _planes(run: RunFiles) -> Section:
    by_models = score_planes(run.samples) or rollout_planes(run)
    planes = tuple(plane for plane in (gold_plane(run.evaluation), *by_models) if plane is not None)
    blocks: list[Any] = [Gallery(planes)] if planes else [missing_note(run, "summary", "evaluation", "samples")]
    return Section("plane", "The reward-cost plane, before and after", blocks)


def _curves(run: RunFiles) -> Section:
    pictures = tuple(curve_pictures(run.steps, run.labelled))
    blocks: list[Any] = [Gallery(pictures)] if pictures else [missing_note(run, "steps")]
    return Section("curves", "The run, step by step", blocks)
