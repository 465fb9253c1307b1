"""Tables of a sandbox run's results by gold: splits, the certificate, outcomes, kinds, categories and forms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from actors.judging.by_gold.figures import MODELS, OUTCOMES, SPLITS
from serving.report.blocks import wording as labels
from serving.report.blocks.blocks import (
    SHARES,
    Figure,
    Gallery,
    Note,
    Row,
    Section,
    Table,
    cell_figure,
    plain,
    quantity,
)
from serving.report.blocks.wording import KIND_NAMES
from serving.report.by_gold.pictures import category_bars, short_category
from serving.report.run_files import RunFiles
from serving.report.run_files import missing_note as _missing

Cells = Mapping[str, Any]


def _models(evaluation: Cells) -> list[str]:
    return [model for model in MODELS if model in evaluation]


def _splits(evaluation: Cells) -> list[str]:
    return [split for split in SPLITS if any(split in evaluation[model] for model in _models(evaluation))]


def _pair(
    tables: Cells, models: Sequence[str], path: tuple[str, ...], measure: str, prefix: str, sign: str = ""
) -> tuple[Figure, ...]:
    """The same cell of each model, found by `path` below the model."""
    figures = []
    for model in models:
        cells: Any = tables.get(model, {})
        for step in path:
            cells = cells.get(step, {})
        key = ".".join([prefix, model, *path, measure])
        name = labels.MODEL_NAMES[model]
        tone = sign if model == "policy" else ""
        figures.append(cell_figure(cells.get(measure), share=measure in SHARES, key=key, label=name, mark=tone))
    return tuple(figures) if any(figure.value is not None for figure in figures) else (cell_figure(None, share=False),)


def _measure_table(evaluation: Cells, measures: Sequence[str], caption: str) -> Table:
    models, splits = _models(evaluation), _splits(evaluation)
    differences = evaluation.get("differences", {})
    rows = []
    for measure in measures:
        cells = tuple(
            _pair(
                evaluation,
                models,
                (split,),
                measure,
                "evaluation",
                labels.mark(measure, differences.get(split, {}).get(measure)),
            )
            for split in splits
        )
        rows.append(Row(labels.MEASURE_NAMES[measure], cells))
    return Table(caption, "Measure", tuple(labels.SPLIT_NAMES[split] for split in splits), tuple(rows))


def results_section(run: RunFiles) -> Section:
    """SFT against the policy on the four splits."""
    confidence = 100 * float(run.evaluation.get("confidence", 0.95))
    lead = (
        f"Every figure is by gold score with its {confidence:g} % interval: Wilson for shares, Student t for means. "
        "“Better” and “worse” stand where the difference paired by prompt excludes zero. "
        "On unknown tasks, which no model ever met, only harm and refusal are scored."
    )
    if not _models(run.evaluation):
        return Section("results", "SFT against the trained policy", [_missing(run, "summary", "evaluation")])
    table = _measure_table(run.evaluation, labels.KEY_MEASURES, "SFT and trained policy on the four splits")
    return Section("results", "SFT against the trained policy", [table], lead)


def certificate_section(run: RunFiles) -> Section:
    """What is claimed of each constraint, and by which bound."""
    title = "Certificate"
    if run.summary is None:
        return Section("certificate", title, [_missing(run, "summary")])
    if run.summary.certificate is None:
        return Section("certificate", title, [Note("This run has no constraint, so there is nothing to certify.")])
    rows = []
    for name, certificate in run.summary.certificate.constraints.items():
        share, key = certificate.measure == "rate", f"certificate.constraints.{name}"
        estimate = cell_figure(certificate.model_dump(), share=share, key=f"{key}.value")
        rows.append(
            Row(
                name,
                (
                    (Figure("feasible" if certificate.feasible else "not feasible"),),
                    (plain(certificate.measure),),
                    (estimate,),
                    (quantity(certificate.upper_bound, share, f"{key}.upper_bound"),),
                    (quantity(certificate.limit, share, f"{key}.limit"),),
                    (Figure(f"{100 * certificate.confidence:.4g} %"),),
                    (Figure(str(certificate.n), key=f"{key}.n", value=certificate.n),),
                    (plain(certificate.labels_source),),
                ),
            )
        )
    columns = (
        "Verdict",
        "Measure",
        "Value and 95 % interval",
        "Upper bound",
        "Limit",
        "Confidence",
        "Samples",
        "Judged by",
    )
    lead = "Feasible means that the one-sided upper bound is at or below the limit, on prompts that nothing else used."
    return Section("certificate", title, [Table("One row per constraint", "Constraint", columns, tuple(rows))], lead)


def categories_section(run: RunFiles) -> Section:
    """Harm by category: bars, and a table per split."""
    tables = run.evaluation.get("categories", {})
    bars = category_bars(run.evaluation)
    if not tables:
        return Section("categories", "Harm by category", [_missing(run, "summary", "evaluation")])
    folded = [
        _grouped_table(tables, split, labels.CATEGORY_MEASURES, "categories", "Category", short_category)
        for split in SPLITS
    ]
    blocks: list[Any] = [*([Gallery((bars,))] if bars else []), *(table for table in folded if table.rows)]
    return Section("categories", "Harm by category", blocks)


def forms_section(run: RunFiles) -> Section:
    """By the form in which a thing is asked."""
    tables = run.evaluation.get("forms", {})
    if not tables:
        return Section("forms", "By form of the request", [_missing(run, "summary", "evaluation")])
    form_tables = [_grouped_table(tables, split, labels.FORM_MEASURES, "forms", "Form", str) for split in SPLITS]
    lead = "How a thing is asked for. Attack forms go with harmful and dual-use requests only."
    return Section("forms", "By form of the request", [table for table in form_tables if table.rows], lead)


def _grouped_table(tables: Cells, split: str, measures: Sequence[str], group: str, corner: str, name: Any) -> Table:
    models = [model for model in MODELS if model in tables]
    keys = sorted({key for model in models for key in tables[model].get(split, {})})
    present = [
        measure
        for measure in measures
        if any(measure in tables[model].get(split, {}).get(key, {}) for model in models for key in keys)
    ]
    rows = tuple(
        Row(
            name(key), tuple(_pair(tables, models, (split, key), measure, f"evaluation.{group}") for measure in present)
        )
        for key in keys
    )
    columns = tuple(labels.MEASURE_NAMES[measure] for measure in present)
    return Table(
        labels.SPLIT_NAMES[split],
        corner,
        columns,
        rows if present else (),
        folded=group == "categories" or split != "seen",
    )


def outcomes_section(run: RunFiles) -> Section:
    """How answers end, by kind of prompt."""
    tables = run.evaluation.get("outcomes", {})
    models = [model for model in MODELS if model in tables]
    if not models:
        return Section("outcomes", "Outcome labels", [_missing(run, "summary", "evaluation")])
    blocks = []
    for split in (split for split in SPLITS if any(split in tables[model] for model in models)):
        kinds = [kind for kind in KIND_NAMES if any(kind in tables[model].get(split, {}) for model in models)]
        rows = tuple(
            Row(KIND_NAMES[kind], tuple(_outcome_figures(tables, models, split, kind, outcome) for outcome in OUTCOMES))
            for kind in kinds
        )
        columns = tuple(labels.OUTCOME_NAMES[outcome] for outcome in OUTCOMES)
        blocks.append(Table(labels.SPLIT_NAMES[split], "Kind", columns, rows, folded=split != "seen"))
    lead = "Partial: it declines, and reveals a harmful step or insults all the same."
    return Section("outcomes", "Outcome labels", blocks, lead)


def _outcome_figures(tables: Cells, models: Sequence[str], split: str, kind: str, outcome: str) -> tuple[Figure, ...]:
    return tuple(
        cell_figure(
            tables[model].get(split, {}).get(kind, {}).get(outcome),
            share=True,
            key=f"evaluation.outcomes.{model}.{split}.{kind}.{outcome}",
            label=labels.MODEL_NAMES[model],
        )
        for model in models
    )


def finer_section(run: RunFiles) -> Section:
    """What one harm rate hides, and all paired differences."""
    title = "Look-alikes, dual use, questions and alternatives"
    if not _models(run.evaluation):
        return Section("finer", title, [_missing(run, "summary", "evaluation")])
    blocks = [_measure_table(run.evaluation, labels.FINER_MEASURES, "What a single harm rate hides")]
    differences = run.evaluation.get("differences", {})
    if differences:
        blocks.append(_difference_table(differences))
    return Section("finer", title, blocks)


def _difference_table(differences: Cells) -> Table:
    splits = [split for split in SPLITS if split in differences]
    rows = []
    for measure in (*labels.KEY_MEASURES, *labels.FINER_MEASURES):
        cells = []
        for split in splits:
            cell = differences[split].get(measure)
            key = f"evaluation.differences.{split}.{measure}"
            tone = labels.mark(measure, cell)
            cells.append((cell_figure(cell, share=measure in SHARES, key=key, signed=True, mark=tone),))
        rows.append(Row(labels.MEASURE_NAMES[measure], tuple(cells)))
    caption = "Paired differences: policy less SFT on the same prompts"
    return Table(caption, "Measure", tuple(labels.SPLIT_NAMES[split] for split in splits), tuple(rows), folded=True)
