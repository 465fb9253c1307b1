"""The sections of a run's report, as blocks. Each takes the run's files and says what is missing where it is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from actors.judging.cells import MODELS, OUTCOMES, SPLITS
from serving.report import labels
from serving.report.blocks import SHARES, Figure, Gallery, Listing, Note, Row, Section, Table, cell_figure, plain
from serving.report.curves import curve_pictures
from serving.report.labels import KIND_NAMES
from serving.report.pictures import (
    calibration_picture,
    category_bars,
    gold_plane,
    score_planes,
    short_category,
)
from serving.report.rounds import rounds_sections
from serving.report.run_files import RunFiles, flatten
from serving.report.run_files import missing_note as _missing
from serving.report.scored_sections import (
    scored_categories,
    scored_limits,
    scored_planes,
    scored_promotion,
    scored_results,
)
from serving.report.trust_sections import trust_sections
from serving.report.worth import worth_blocks, worth_pictures
from serving.summary import STAGES, ScoreModelFigures

Cells = Mapping[str, Any]


def run_sections(run: RunFiles) -> list[Section]:
    """Every section but the verdict and the conversations, in reading order."""
    if run.on_data:
        return [
            scored_results(run),
            scored_limits(run),
            *scored_promotion(run),
            _warnings(run),
            scored_planes(run),
            _curves(run),
            scored_categories(run),
            _score_models(run),
            _time(run),
            _provenance(run),
        ]
    return [
        _results(run),
        _certificate(run),
        *rounds_sections(run),
        *trust_sections(run),
        _warnings(run),
        _planes(run),
        _curves(run),
        _categories(run),
        _forms(run),
        _outcomes(run),
        _finer(run),
        _score_models(run),
        _time(run),
        _provenance(run),
    ]


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
    return tuple(figures) if any(each.value is not None for each in figures) else (cell_figure(None, share=False),)


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


def _results(run: RunFiles) -> Section:
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


def _certificate(run: RunFiles) -> Section:
    title = "Certificate"
    if run.summary is None:
        return Section("certificate", title, [_missing(run, "summary")])
    if run.summary.certificate is None:
        return Section("certificate", title, [Note("This run has no constraint, so there is nothing to certify.")])
    rows = []
    for name, each in run.summary.certificate.constraints.items():
        share, key = each.measure == "rate", f"certificate.constraints.{name}"
        estimate = cell_figure(each.model_dump(), share=share, key=f"{key}.value")
        rows.append(
            Row(
                name,
                (
                    (Figure("feasible" if each.feasible else "not feasible"),),
                    (plain(each.measure),),
                    (estimate,),
                    (_amount(each.upper_bound, share, f"{key}.upper_bound"),),
                    (_amount(each.limit, share, f"{key}.limit"),),
                    (Figure(f"{100 * each.confidence:.4g} %"),),
                    (Figure(str(each.n), key=f"{key}.n", value=each.n),),
                    (plain(each.labels_source),),
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


def _amount(value: float, share: bool, key: str) -> Figure:
    return Figure(f"{100 * value:.3g} %" if share else f"{value:.3g}", key=key, value=value)


def _warnings(run: RunFiles) -> Section:
    if run.summary is None:
        return Section("warnings", "Warnings", [_missing(run, "summary")])
    notes = [Note(text, tone="warning") for text in run.summary.warnings]
    return Section("warnings", "Warnings", notes or [Note("None.", tone="good")])


def _planes(run: RunFiles) -> Section:
    pictures = [gold_plane(run.evaluation), *score_planes(run.samples)]
    found = tuple(each for each in pictures if each is not None)
    blocks: list[Any] = [Gallery(found)] if found else [_missing(run, "summary", "evaluation", "samples")]
    return Section("plane", "The reward-cost plane, before and after", blocks)


def _curves(run: RunFiles) -> Section:
    pictures = tuple(curve_pictures(run.steps, run.labelled))
    blocks: list[Any] = [Gallery(pictures)] if pictures else [_missing(run, "steps")]
    return Section("curves", "The run, step by step", blocks)


def _categories(run: RunFiles) -> Section:
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


def _forms(run: RunFiles) -> Section:
    tables = run.evaluation.get("forms", {})
    if not tables:
        return Section("forms", "By form of the request", [_missing(run, "summary", "evaluation")])
    found = [_grouped_table(tables, split, labels.FORM_MEASURES, "forms", "Form", str) for split in SPLITS]
    lead = "How a thing is asked for. Attack forms go with harmful and dual-use requests only."
    return Section("forms", "By form of the request", [table for table in found if table.rows], lead)


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


def _outcomes(run: RunFiles) -> Section:
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


def _finer(run: RunFiles) -> Section:
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


def _score_models(run: RunFiles) -> Section:
    title = "Reward and cost models"
    if run.summary is None:
        return Section("models", title, [_missing(run, "summary")])
    named: dict[str, tuple[str, ScoreModelFigures]] = {}
    if run.summary.reward_model is not None:
        named["reward"] = ("reward_model", run.summary.reward_model)
    named |= {f"cost/{name}": (f"cost_models.{name}", each) for name, each in run.summary.cost_models.items()}
    if not named:
        return Section("models", title, [Note("This run trained none.")])
    rows = tuple(
        Row(f"{name} ({each.scorer})" if each.scorer else name, _model_cells(key, each))
        for name, (key, each) in named.items()
    )
    columns = ("Pair accuracy", "Sign accuracy", "Calibration error", "Platt slope, intercept", "Score mean ± spread")
    pictures = [calibration_picture(name, each) for name, (_, each) in named.items()]
    found = tuple(each for each in pictures if each is not None)
    on_data = any(each.worth is not None for _, each in named.values())
    caption = "On pairs kept out of their training, by " + ("prompt" if on_data else "task")
    blocks: list[Any] = [Table(caption, "Model", columns, rows), *worth_blocks(named)]
    found += worth_pictures(named)
    return Section("models", title, [*blocks, Gallery(found)] if found else blocks)


def _model_cells(key: str, model: ScoreModelFigures) -> tuple[tuple[Figure, ...], ...]:
    def accuracy(name: str) -> Figure:
        value, interval = getattr(model, name), getattr(model, f"{name}_interval")
        cell = interval.model_dump() if interval else {"value": value, "low": None, "high": None, "n": None}
        return cell_figure(cell, share=True, key=f"{key}.{name}")

    error = (
        Figure("–")
        if model.calibration_error is None
        else _amount(model.calibration_error, True, f"{key}.calibration_error")
    )
    platt = (
        Figure("–")
        if model.calibration_slope is None
        else Figure(f"{model.calibration_slope:.2f}, {model.calibration_intercept or 0.0:.2f}")
    )
    spread = (
        Figure("–") if model.score_mean is None else Figure(f"{model.score_mean:.2f} ± {model.score_std or 0.0:.2f}")
    )
    return (accuracy("pair_accuracy"),), (accuracy("sign_accuracy"),), (error,), (platt,), (spread,)


def _time(run: RunFiles) -> Section:
    title = "Time and throughput"
    if run.summary is None:
        return Section("time", title, [_missing(run, "summary")])
    seconds = run.summary.seconds
    total = seconds.get("total", 0.0)
    order = [*(stage for stage in STAGES if stage in seconds), *sorted(set(seconds) - {*STAGES, "total"}), "total"]
    rows = [
        Row(
            stage.replace("_", " "),
            (
                (_seconds(seconds[stage], f"seconds.{stage}"),),
                (Figure(f"{100 * seconds[stage] / total:.0f} %" if total else "–"),),
            ),
        )
        for stage in order
        if stage in seconds
    ]
    blocks = [Table("Wall-clock time per stage", "Stage", ("Seconds", "Share of the total"), tuple(rows))]
    if (loop := _loop_rows(run)) is not None:
        blocks.append(loop)
    return Section("time", title, blocks)


def _seconds(value: float, key: str) -> Figure:
    digits = 1 if value >= 10 else 2
    return Figure(f"{value:,.{digits}f} s", key=key, value=value)


def _loop_rows(run: RunFiles) -> Table | None:
    assert run.summary is not None
    ppo, weights = run.summary.ppo, run.summary.weights
    rows: list[Row] = []
    if ppo is not None:
        rows.append(Row("steps", ((Figure(str(ppo.steps), key="ppo.steps", value=ppo.steps),),)))
        rate = Figure(f"{ppo.samples_per_second:.1f}", key="ppo.samples_per_second", value=ppo.samples_per_second)
        rows.append(Row("samples per second", ((rate,),)))
        rows.append(
            Row("samples set aside", ((Figure(str(ppo.quarantined), key="ppo.quarantined", value=ppo.quarantined),),))
        )
        for phase, seconds in ppo.phase_seconds.items():
            rows.append(Row(f"{phase}, per step", ((_seconds(seconds, f"ppo.phase_seconds.{phase}"),),)))
    if weights is not None:
        rows.append(
            Row("weight version", ((Figure(str(weights.version), key="weights.version", value=weights.version),),))
        )
        size = Figure(f"{weights.bytes / 2**20:.1f} MiB", key="weights.bytes", value=weights.bytes)
        rows.append(Row("weights sent, per broadcast", ((size,),)))
        key = "weights.seconds_per_broadcast"
        rows.append(Row("one broadcast", ((_seconds(weights.seconds_per_broadcast, key),),)))
    return Table("The loop", "What", ("Value",), tuple(rows)) if rows else None


def _provenance(run: RunFiles) -> Section:
    rows: list[Row] = []
    if run.summary is not None:
        rows.append(Row("seed", ((Figure(str(run.summary.seed), key="seed", value=run.summary.seed),),)))
        rows += [Row(f"{name}", ((Figure(str(value)),),)) for name, value in run.summary.preferences.items()]
        rows += [Row(f"version of {name}", ((Figure(value),),)) for name, value in sorted(run.summary.versions.items())]
        rows += [Row(f"digest of {name}", ((Figure(value),),)) for name, value in sorted(run.summary.digests.items())]
    blocks: list[Any] = (
        [Table("Seed, versions, digests", "What", ("Value",), tuple(rows))] if rows else [_missing(run, "summary")]
    )
    if run.settings:
        text = yaml.safe_dump(dict(run.settings), sort_keys=False, allow_unicode=True)
        blocks.append(Listing("Resolved configuration", text))
    else:
        blocks.append(_missing(run, "settings"))
    if run.manifest:
        text = "\n".join(f"{key}: {json.dumps(value)}" for key, value in flatten(run.manifest).items())
        blocks.append(Listing("Manifest: what each stage read and made", text))
    else:
        blocks.append(_missing(run, "manifest"))
    return Section("provenance", "Configuration and provenance", blocks)
