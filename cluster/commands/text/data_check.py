"""The result of `steelyard data check` for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from learner.data.kinds import KINDS

if TYPE_CHECKING:
    from rich.console import Console

    from learner.data.quality.check import Quality, Tally
    from learner.data.quarantine import Quarantine

_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}
_SHOWN_ROWS = 5
_SHOWN_NAMES = 25


def show_quality(
    console: Console, file: str, format: str | None, quality: Quality, *, against: str | None, quarantine: Quarantine
) -> None:
    """Print what was found, what to do about it, and where the bad rows are. Names come from data: no markup in them."""

    def say(text: str) -> None:
        console.print(Text(_printable(text)))

    kind = f"rows of format {format}" if format else "rows of no known format"
    say(f"{file}: {quality.rows:,} {kind}, {quality.ok_rows:,} good, {quality.quarantined:,} set aside")
    if quality.findings:
        console.print(_findings(quality))
        for kind in dict.fromkeys(tally.kind for tally in quality.findings if tally.kind in KINDS):
            say(f"{kind}: {KINDS[kind].remedy}")
    else:
        say("nothing was found to be wrong")
    for line in _balance(quality.balance):
        say(line)
    if quality.balance["leakage"] is not None:
        say(_leakage(quality.balance["leakage"], against or "", quality.ok_rows))
    for line in _agreement(quality.agreement):
        say(line)
    if quarantine.rows:
        say(f"bad rows are in {quarantine.path}, with file, row and reason")
    elif quarantine.path.exists():
        say(f"no row was set aside; {quarantine.path} is from an earlier check")


def _findings(quality: Quality) -> Table:
    table = Table(title="findings")
    for heading, justify in (("kind", "left"), ("severity", "left"), ("rows", "right")):
        table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]  # two of rich's words
    table.add_column("where, and the first one's message", overflow="fold")
    for tally in quality.findings:
        count = f"{tally.count:,}" if tally.places else "–"
        cells = (tally.severity, count, _where(tally, several=quality.files > 1))
        style = _STYLES[tally.severity]
        table.add_row(Text(tally.kind, style=style), *(Text(_printable(cell)) for cell in cells))
    return table


def _where(tally: Tally, *, several: bool) -> str:
    places = [f"{place.file}:{place.row}" if several else str(place.row) for place in tally.places[:_SHOWN_ROWS]]
    more = ", …" if tally.count > len(places) and places else ""
    rows = f"row{'s' if len(places) > 1 else ''} {', '.join(places)}{more}" if places else ""
    return ": ".join(part for part in (rows, tally.example) if part)


def _balance(balance: Mapping[str, Any]) -> Iterator[str]:
    records = ", ".join(f"{count:,} {record_kind}" for record_kind, count in balance["records"].items() if count)
    turns = balance["turns"]["user_turns"]
    if not records:
        return
    yield f"records: {records}; {balance['different']['prompts']:,} different prompts"
    yield "user turns: " + ", ".join(f"{count:,} with {turn}" for turn, count in turns.items())
    yield from _lengths(balance["lengths"])
    yield from _labels(balance)
    yield from _decoupling(balance["decoupling"])
    for name in ("categories", "severity", "tags"):
        if counts := balance[name]:
            first_counts = ", ".join(f"{key} {count:,}" for key, count in list(counts.items())[:_SHOWN_NAMES])
            yield f"{name}: {first_counts}{', …' if len(counts) > _SHOWN_NAMES else ''}"


def _lengths(lengths: Mapping[str, Any]) -> Iterator[str]:
    for part, units in lengths.items():
        for unit, values in units.items():
            if values is not None:
                spread = ", ".join(f"{name} {values[name]:,}" for name in ("min", "q05", "median", "q95", "max"))
                yield f"{part}, {unit}: {spread}"


def _labels(balance: Mapping[str, Any]) -> Iterator[str]:
    for name in ("better", "safer"):
        if rate := balance[name]["rate_0"]:
            where = "always written first" if balance["winner_first_by_format"] else f"response 0 in {_rate(rate)}"
            yield f"{name}: {where}; {balance[name]['unknown']:,} unknown"
        for unit, counts in balance["length_bias"][name].items():
            if counts is not None and counts["longer"]:
                yield f"{name}: the longer one ({unit}) wins {_rate(counts['longer'])}; {counts['equal']:,} equal"
    if rate := balance["safe"]["rate"]:
        yield f"safe responses: {_rate(rate)}; {balance['safe']['unknown']:,} unknown"
    if any(count for group, count in balance["pairs_safe"].items() if group != "unknown"):
        groups = ", ".join(f"{group} {count:,}" for group, count in balance["pairs_safe"].items())
        yield f"safe responses of a pair: {groups}"


def _decoupling(decoupling: Mapping[str, Any] | None) -> Iterator[str]:
    if decoupling is None:
        return
    phi = decoupling["phi"]
    correlation = "undefined" if phi is None else f"{phi['value']:.2f} [{phi['low']:.2f}, {phi['high']:.2f}]"
    yield f"better against safer: correlation (phi) {correlation}; they differ in {_rate(decoupling['differ'])} pairs"
    for group, rate in decoupling["differ_by_safe_responses"].items():
        if group != "unknown":
            yield f"  safe responses {group}: they differ in {_rate(rate)} pairs"


def _leakage(leakage: Mapping[str, int], against: str, good: int) -> str:
    return (
        f"leakage: {leakage['rows']:,} of {good:,} rows have a prompt that is also in {against} "
        f"({leakage['prompts']:,} prompts); {leakage['rows_with_shared_opening']:,} share the first user turn"
    )


def _agreement(agreement: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for raters, labels in (("annotators", agreement["votes"]), ("repeated rows", agreement["repeated"])):
        for name, coefficients in labels.items():
            fleiss = _coefficient(coefficients["fleiss"])
            alpha, interval = _coefficient(coefficients["krippendorff"]), coefficients["krippendorff_interval"]
            span = f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else ""
            cohen = coefficients.get("cohen")
            mean = f", mean Cohen {_coefficient(cohen['mean'])}" if cohen else ""
            yield (
                f"agreement of {raters} on '{name}': raw {100 * coefficients['raw']:.1f} % over {coefficients['units']:,} units, "
                f"Krippendorff {alpha}{span}, Fleiss {fleiss}{mean}"
            )


def _coefficient(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"


def _rate(rate: Mapping[str, float]) -> str:
    return f"{100 * rate['value']:.1f} % [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}] of {rate['n']:,}"


def _printable(text: str) -> str:
    """Without what a terminal would take for a command."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
