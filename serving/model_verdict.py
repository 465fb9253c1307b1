"""What is said first of a run without labels: its limits by its own cost models, and that nothing is certified."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

NOT_CERTIFIED = "not certified (no labels)"
KEPT, REWARD = "kept", "reward"

Document = Mapping[str, Any]
"""evaluation.json of such a run: `actors.judging.by_models.figures.evaluate_scored`, with ``constraints`` and ``promoted``."""


def is_scored(document: Mapping[str, Any]) -> bool:
    """Whether an evaluation was made by score models, not by gold."""
    return document.get("kind") == "scored"


def meets_limits(scored: Document) -> bool:
    """Whether the promoted snapshot's upper bounds met every limit, by the cost models, on the selection prompts."""
    return bool(scored["promoted"]["feasible"])


def scored_verdict(scored: Document, certified: str | None = None) -> str:
    """What an independent judge certified, where one did (`certified`); else that nothing is. One line, such as

    ``not certified (no labels): mean harm by its cost model 0.12 [−0.10, 0.31] ≤ 0.5, before 0.85; win rate by reward 61 %
    [55, 67]``; where the promoted snapshot was not feasible it begins with ``limit not met``.
    """
    parts = [*(_measured(scored, name) for name in scored["constraints"]), *_wins(scored)]
    if certified is not None:
        return "; ".join([certified, *parts])
    line = f"{NOT_CERTIFIED}: {'; '.join(parts) or 'nothing was measured'}"
    return line if meets_limits(scored) else f"{_missed(scored)}; {line}"


def measure_name(name: str, about: Mapping[str, Any]) -> str:
    """A constraint's measure in words: ``mean harm``, ``rate of harm``."""
    if about["measure"] == "cvar":
        return f"worst {100 * about['alpha']:g} % of {name}"
    return {"mean": f"mean {name}", "rate": f"rate of {name}", "rectified": f"mean of {name} above 0"}[about["measure"]]


def amount(value: float, about: Mapping[str, Any], *, unit: bool = True) -> str:
    """A value of a constraint's measure: a percentage of ``rate``, else a cost."""
    if about["measure"] == "rate":
        return f"{100 * value:.1f}{' %' if unit else ''}"
    return number(value)


def limit_text(about: Mapping[str, Any]) -> str:
    """A constraint's limit as it was given."""
    limit = float(about["limit"])
    return f"{100 * limit:g} %" if about["measure"] == "rate" else f"{limit:g}".replace("-", "−")


def number(value: float) -> str:
    """Two digits after the point, with a true minus and no minus zero."""
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "−")


def _missed(scored: Document) -> str:
    constraints, bounds = scored["constraints"], scored["promoted"]["upper_bound"]
    over = [name for name in constraints if bounds[name] > constraints[name]["limit"]]
    judges = " and ".join(dict.fromkeys(str(constraints[name]["judge"]) for name in over))
    bound_texts = ", ".join(
        f"upper bound of {measure_name(name, constraints[name])} {amount(bounds[name], constraints[name])} > "
        f"{limit_text(constraints[name])}"
        for name in over
    )
    return f"limit not met by the {judges}: {bound_texts} on the selection prompts"


def _measured(scored: Document, name: str) -> str:
    about, kept_cells = scored["constraints"][name], scored["sets"].get(KEPT, {}).get("all", {})
    cells = {model: kept_cells.get(model, {}).get(f"measure/{name}") or {} for model in ("sft", "policy")}
    subject = f"{measure_name(name, about)} by its {about['judge']}"
    after, before = cells["policy"], cells["sft"].get("value")
    if after.get("value") is None:
        return f"{subject} not measured"
    sign = "≤" if after["value"] <= about["limit"] else ">"
    ends = [after["low"], after["high"]]
    interval = "" if None in ends else f" [{', '.join(amount(end, about, unit=False) for end in ends)}]"
    text = f"{subject} {amount(after['value'], about)}{interval} {sign} {limit_text(about)}"
    return text if before is None else f"{text}, before {amount(before, about)}"


def _wins(scored: Document) -> Iterator[str]:
    cell = scored["wins"].get(KEPT, {}).get(REWARD)
    if cell is not None and cell["value"] is not None:
        yield f"win rate by reward {100 * cell['value']:.0f} % [{100 * cell['low']:.0f}, {100 * cell['high']:.0f}]"
