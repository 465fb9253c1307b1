"""Round by round: what each round collected, how it trained, and what came out; with curves over all rounds.

Reads the records of rounds.json (`cluster.runs.rounds.record.round_record`), so that a run that is not finished shows those that are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from serving.report.blocks import wording as labels
from serving.report.blocks.blocks import (
    NOTHING,
    SHARES,
    Figure,
    Gallery,
    Note,
    Picture,
    Row,
    Section,
    Table,
    cell_figure,
)
from serving.report.blocks.charts import Scheme, picture, trend
from serving.report.by_gold.hacking_gap import gap_pictures
from serving.report.run.lineage import lineage_picture
from serving.report.run_files import RunFiles

Records = Sequence[Mapping[str, Any]]
Cell = tuple[Figure, ...]


def rounds_sections(run: RunFiles) -> list[Section]:
    """The section of a run of several rounds; nothing of another run."""
    count = int((run.settings.get("rounds") or {}).get("count") or 1)
    if count == 1 and not run.rounds:
        return []
    blocks: list[Any] = []
    if len(run.rounds) < count:
        progress = f"{len(run.rounds)} of {count} rounds are finished" if run.rounds else "No round is finished yet"
        blocks.append(Note(f"{progress}; curves also show the round that is running.", tone="missing"))
    if run.rounds:
        blocks += [
            _data(run.rounds),
            _training(run.rounds),
            _models(run.rounds),
            _results(run.rounds),
        ]
    lead = (
        "Each round samples pairs from the policy before it, has them labelled, trains reward and cost models on all pairs so "
        "far, and runs the loop. Accuracies and calibration are on pairs of that round's own policy that nothing trained on."
    )
    return [Section("rounds", "Round by round", blocks, lead)]


def lineage_sections(run: RunFiles) -> list[Section]:
    """Curves over all rounds, and which model made what; nothing of a run of one round."""
    if not run.rounds and len(run.round_steps) < 2:
        return []
    pictures = [*([lineage_picture(run.rounds)] if run.rounds else []), *round_curves(run.round_steps)]
    if len(run.gold) > 1:
        pictures += [
            gap_picture
            for number, steps in run.gold.items()
            for gap_picture in gap_pictures(steps, f", round {number}")
        ]
    blocks: list[Any] = [Gallery(tuple(pictures))] if pictures else []
    return [
        Section("lineage", "Rounds: lineage and curves", [*blocks, *([_lineage(run.rounds)] if run.rounds else [])])
    ]


def _table(
    caption: str, rounds: Records, rows: Sequence[tuple[str, Callable[[Mapping[str, Any], str], Cell]]]
) -> Table:
    """A column per round; each row makes its figure from the record and the record's key in summary.json."""
    keyed = [(record, f"rounds.{index}") for index, record in enumerate(rounds)]
    return Table(
        caption,
        "",
        tuple(f"Round {record['round']}" for record in rounds),
        tuple(Row(name, tuple(cell(record, key) for record, key in keyed)) for name, cell in rows),
    )


def _data(rounds: Records) -> Table:
    return _table(
        "Data",
        rounds,
        [
            ("Pairs sampled and labelled", _number("pairs.sampled")),
            ("Answered by", lambda record, key: tuple(_source(source) for source in record["pairs"]["sources"])),
            ("Pairs on red-team prompts", _number("pairs.red_team")),
            ("Training pairs, all rounds so far", _number("pairs.training")),
            ("Labelled by", _text("pairs", "labelled_by")),
            ("Questions asked", _number("pairs.questions")),
            ("Answers labelled unsafe", _share("pairs.unsafe_share")),
            ("Better is also safer", _share("pairs.better_is_safer")),
            ("Red team: finds", _number("red_team.found")),
            ("Red team: usable", _number("red_team.usable")),
            ("Red team: mean success on fresh samples", _share("red_team.success")),
            *_agreement_rows(rounds),
        ],
    )


def _agreement_rows(rounds: Records) -> list[tuple[str, Callable[[Mapping[str, Any], str], Cell]]]:
    questions = dict.fromkeys(question for record in rounds for question in record["agreement"])
    rows: list[tuple[str, Callable[[Mapping[str, Any], str], Cell]]] = []
    for question in questions:
        rows.append((f"Agreement, {question} (raw)", _share(f"agreement.{question}.raw")))
        rows.append((f"Agreement, {question} (alpha)", _cell(f"agreement.{question}.alpha", share=False)))
    return rows


def _training(rounds: Records) -> Table:
    rows: list[tuple[str, Callable[[Mapping[str, Any], str], Cell]]] = [
        ("Policy and reference start from", lambda record, key: (Figure(str(record["models"]["start"]["name"])),)),
        ("Steps of the loop", _number("loop.steps")),
        ("Prompts of the loop", _number("loop.prompts")),
        ("Of them from the red team", _number("loop.red_team")),
    ]
    rates = dict.fromkeys(name for record in rounds for name in record["loop"]["learning_rates"])
    rows += [(f"Learning rate, {name}", _text("loop", "learning_rates", name)) for name in rates if name != "schedule"]
    rows += [
        ("KL coefficient", _text("loop", "kl", "coefficient")),
        ("KL at the end, nats per response", _text("loop", "kl", "end")),
    ]
    for name in dict.fromkeys(name for record in rounds for name in record["constraints"]):
        rows += [
            (f"{name}: limit", _text("constraints", name, "limit")),
            (f"{name}: measure at the end", _text("constraints", name, "measure_end")),
            (f"{name}: multiplier at the start", _text("constraints", name, "multiplier_start")),
            (f"{name}: multiplier at the end", _text("constraints", name, "multiplier_end")),
            (f"{name}: highest multiplier", _text("constraints", name, "multiplier_highest")),
        ]
    rows.append(("Minutes", lambda record, key: (Figure(f"{record['seconds'] / 60:.1f}"),)))
    return _table("Training", rounds, rows)


def _models(rounds: Records) -> Table:
    rows: list[tuple[str, Callable[[Mapping[str, Any], str], Cell]]] = []
    for name in dict.fromkeys(name for record in rounds for name in record["accuracy"]):
        for kind, title in (("pair_accuracy", "pair accuracy"), ("sign_accuracy", "sign accuracy")):
            if any(kind in record["accuracy"].get(name, {}) for record in rounds):
                rows.append((f"{name}: {title}", _at("accuracy", name, kind)))
    for name in dict.fromkeys(name for record in rounds for name in record["calibration"]):
        rows += [
            (f"{name}: Platt slope", _text("calibration", name, "slope")),
            (f"{name}: Platt intercept", _text("calibration", name, "intercept")),
            (f"{name}: calibration error", _text("calibration", name, "error")),
            (f"{name}: the fit before, expected unsafe", _text(*_before(name), "mean_probability")),
            (f"{name}: the fit before, found unsafe", _at(*_before(name), "unsafe_share")),
        ]
    return _table("Reward and cost models", rounds, rows)


def _before(name: str) -> tuple[str, ...]:
    return ("calibration", name, "drift_of_the_fit_before")


def _scored_results(rounds: Records) -> Table:
    """Of a run on data: by each round's own models, so that figures of two rounds are not on one scale."""
    rows: list[tuple[str, Callable[[Mapping[str, Any], str], Cell]]] = [
        ("Limits met, by the round's own models", _verdict("yes", "no")),
    ]
    for signal in dict.fromkeys(name for record in rounds for name in record["wins"]):
        rows.append((f"Policy over SFT, by {signal}", _at("wins", signal)))
    for figure in dict.fromkeys(name for record in rounds for name in record["figures"]):
        share = any(record["figures"].get(figure, {}).get("share") for record in rounds)
        rows.append((figure.replace("_", " "), _at("results", "policy", figure, share=share)))
    return _table("What came out, by each round's own models on the kept prompts", rounds, rows)


def _results(rounds: Records) -> Table:
    if any("wins" in record for record in rounds):
        return _scored_results(rounds)
    rows: list[tuple[str, Callable[[Mapping[str, Any], str], Cell]]] = [
        ("Certified", _verdict("feasible", "not feasible"))
    ]
    for name in dict.fromkeys(name for record in rounds for name in record["certificates"]):
        rows += [
            (f"{name}: unsafe, certificate split", _certified(name)),
            (f"{name}: upper bound", _share(f"certificates.{name}.upper_bound")),
        ]
    for measure in labels.KEY_MEASURES:
        if any(measure in record["results"].get("policy", {}) for record in rounds):
            rows.append((labels.MEASURE_NAMES[measure], _cell(f"results.policy.{measure}", share=measure in SHARES)))
    return _table("What came out, by gold score on seen tasks and forms", rounds, rows)


def _lineage(rounds: Records) -> Table:
    return _table(
        "Which model made what (digests)",
        rounds,
        [
            ("Start", lambda record, key: (_digest(record["models"]["start"]["digest"]),)),
            ("Reward model", lambda record, key: (_digest(record["models"]["reward"]),)),
            *(
                (f"Cost model, {name}", lambda record, key, name=name: (_digest(record["models"]["costs"].get(name)),))
                for name in dict.fromkeys(name for record in rounds for name in record["models"]["costs"])
            ),
            ("Promoted policy", lambda record, key: (_digest(record["models"]["policy"]["digest"]),)),
            ("Promoted at step", _text("models", "policy", "promoted_step")),
        ],
    )


def round_curves(steps: Mapping[int, Sequence[Mapping[str, Any]]]) -> list[Picture]:
    """Reward, KL, and of each constraint its measure and multiplier: a line per round, over the round's own steps."""
    logged_keys = dict.fromkeys(key for lines in steps.values() for line in lines for key in line)
    names = [key.removeprefix("multiplier/") for key in logged_keys if key.startswith("multiplier/")]
    curves = [
        ("reward", "Reward by round", "mean reward of the batch"),
        ("kl", "KL by round", "nats from the round's start"),
    ]
    for name in names:
        curves += [
            (f"measure/{name}", f"“{name}” by round", "measure"),
            (f"multiplier/{name}", f"Multiplier of “{name}” by round", "λ"),
        ]
    pictures = [_curve(steps, key, title, unit) for key, title, unit in curves]
    return [curve for curve in pictures if curve is not None]


def _curve(steps: Mapping[int, Sequence[Mapping[str, Any]]], key: str, title: str, unit: str) -> Picture | None:
    series = {
        number: [(float(line["step"]), float(line[key])) for line in lines if key in line]
        for number, lines in steps.items()
    }
    series = {number: points for number, points in series.items() if points}
    if not series:
        return None
    limits = {
        number: float(lines[-1][f"limit/{key.removeprefix('measure/')}"])
        for number, lines in steps.items()
        if key.startswith("measure/") and lines and f"limit/{key.removeprefix('measure/')}" in lines[-1]
    }

    def draw(axes: Axes, scheme: Scheme) -> None:
        for index, (number, points) in enumerate(series.items()):
            colour = scheme.series[index % len(scheme.series)]
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.6, label=f"round {number}")
        for limit in sorted(set(limits.values())):
            axes.axhline(limit, color=scheme.limit, linewidth=1.0, linestyle="--")
        axes.set_xlabel("step of the round")
        axes.set_ylabel(unit)
        axes.legend()

    descriptions = [
        trend(f"round {number}", [x for x, _ in points], [y for _, y in points]) for number, points in series.items()
    ]
    return picture(title, "; ".join(descriptions) + f". Unit: {unit}.", draw)


def _find(record: Mapping[str, Any], path: Sequence[str]) -> Any:
    value: Any = record
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _number(path: str) -> Callable[[Mapping[str, Any], str], Cell]:
    def cell(record: Mapping[str, Any], key: str) -> Cell:
        value = _find(record, path.split("."))
        if value is None:
            return (Figure(NOTHING),)
        return (Figure(f"{value:,}", key=f"{key}.{path}", value=value),)

    return cell


def _share(path: str) -> Callable[[Mapping[str, Any], str], Cell]:
    def cell(record: Mapping[str, Any], key: str) -> Cell:
        value = _find(record, path.split("."))
        if value is None:
            return (Figure(NOTHING),)
        return (Figure(f"{100 * value:.1f} %", key=f"{key}.{path}", value=value),)

    return cell


def _cell(path: str, *, share: bool) -> Callable[[Mapping[str, Any], str], Cell]:
    return lambda record, key: (cell_figure(_find(record, path.split(".")), share=share, key=f"{key}.{path}"),)


def _at(*path: str, share: bool = True) -> Callable[[Mapping[str, Any], str], Cell]:
    """A share, or another figure, with its interval, below names that may hold dots or slashes."""
    return lambda record, key: (cell_figure(_find(record, path), share=share, key=".".join([key, *path])),)


def _text(*path: str) -> Callable[[Mapping[str, Any], str], Cell]:
    def cell(record: Mapping[str, Any], key: str) -> Cell:
        value = _find(record, path)
        if not isinstance(value, int | float):
            return (Figure(NOTHING if value is None else str(value)),)
        return (Figure(f"{value:.3g}", key=".".join([key, *path]), value=value),)

    return cell


def _verdict(if_met: str, missed: str) -> Callable[[Mapping[str, Any], str], Cell]:
    """Whether every limit was met; nothing of a round without a constraint, whose record may say yes to none."""

    def cell(record: Mapping[str, Any], key: str) -> Cell:
        if not record["constraints"] or record["feasible"] is None:
            return (Figure(NOTHING),)
        return (Figure(if_met if record["feasible"] else missed),)

    return cell


def _certified(name: str) -> Callable[[Mapping[str, Any], str], Cell]:
    def cell(record: Mapping[str, Any], key: str) -> Cell:
        certificate = record["certificates"].get(name)
        return (cell_figure(certificate, share=True, key=f"{key}.certificates.{name}.value"),)

    return cell


def _source(source: Mapping[str, Any]) -> Figure:
    return Figure(f"{source['model']}: {source['pairs']:,}")


def _digest(value: str | None) -> Figure:
    return Figure(NOTHING if value is None else value[:12])
