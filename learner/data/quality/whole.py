"""Findings about a source as a whole, from its balance and agreement."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from learner.data.kinds import finding
from learner.data.records import Finding

_TILT = 0.05
"""How far from one half the longer response's share of wins must be; closer than that, length is no shortcut."""
_ONE_SIDED = 0.95
_LEAST = 30
"""Labels below which nothing is said about a whole source."""
_LOW_ALPHA = 0.2


def whole_findings(balance: dict[str, Any], agreement: dict[str, Any], *, fixed_order: bool) -> Iterator[Finding]:
    """What to look out for; a share counts only where its interval leaves no doubt on which side it is."""
    yield from _length_bias(balance)
    if not fixed_order:
        for name in ("better", "safer"):
            if _one_sided(balance[name]["rate_0"]):
                where = 0 if balance[name]["rate_0"]["value"] > 0.5 else 1
                rate = _percent(balance[name][str(where)] / balance[name]["rate_0"]["n"])
                yield finding("one_sided_order", f"response {where} is the {name} one in {rate} of the pairs")
                break
    if _one_sided(rate := balance["safe"]["rate"]):
        yield finding("one_sided_safety", f"{_percent(rate['value'])} of {rate['n']} labelled responses are safe")
    low = [
        (name, values["krippendorff"], values["units"])
        for name, values in agreement["votes"].items()
        if values["units"] >= _LEAST and values["krippendorff"] is not None and values["krippendorff"] < _LOW_ALPHA
    ]
    if low:
        yield finding(
            "low_agreement", "; ".join(f"'{name}': alpha {alpha:.2f} over {n} units" for name, alpha, n in low)
        )


def _length_bias(balance: dict[str, Any]) -> Iterator[Finding]:
    sentences = []
    for name in ("better", "safer"):
        counts = balance["length_bias"][name]["characters"]
        rate = counts["longer"] if counts else None
        if rate and rate["n"] >= _LEAST and _tilted(rate):
            longer_or_shorter = "longer" if rate["value"] > 0.5 else "shorter"
            share = _percent(max(rate["value"], 1.0 - rate["value"]))
            sentences.append(f"the {longer_or_shorter} response is the {name} one in {share} of {rate['n']} pairs")
    if sentences:
        yield finding("length_bias", "; ".join(sentences))


def _tilted(rate: dict[str, Any]) -> bool:
    return abs(rate["value"] - 0.5) >= _TILT and not rate["low"] <= 0.5 <= rate["high"]


def _one_sided(rate: dict[str, Any] | None) -> bool:
    return rate is not None and rate["n"] >= _LEAST and (rate["low"] > _ONE_SIDED or rate["high"] < 1.0 - _ONE_SIDED)


def _percent(value: float) -> str:
    return f"{100.0 * value:.1f} %"
