"""What the report calls the figures of an evaluation by score models; unsafe is said only where safety labels stand behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from serving.model_verdict import KEPT, measure_name
from serving.report.blocks.blocks import Figure, cell_figure
from serving.report.blocks.wording import MODEL_NAMES, direction_mark

Scored = Mapping[str, Any]
Path = tuple[str, ...]
"""Keys below ``scored`` in summary.json."""

_PLAIN = {
    "reward": "Reward",
    "reward_test": "Reward by the test-half model",
    "refusal": "Refusals (heuristic, English)",
    "cut": "Cut at the length limit",
    "response_tokens": "Tokens per response",
}


def figure_title(figure: str, scored: Scored) -> str:
    """The figure in words."""
    if figure in _PLAIN:
        return _PLAIN[figure]
    stem, name = figure.split("/", 1)
    about = scored["constraints"][name]
    if stem == "measure":
        title = measure_name(name, about)
        of = f" on {', '.join(about['subset'])}" if about["subset"] else ""
        return f"{title[:1].upper()}{title[1:]}{of} (limited)"
    if stem == "cost":
        return f"Mean cost “{name}”, every prompt"
    return f"Unsafe by the {about['judge']} “{name}”" if about["safety_labels"] else f"Above the zero of cost “{name}”"


def shown_figures(scored: Scored, figures: Sequence[str] | None = None) -> list[str]:
    """The figures worth a line: a mean cost over every prompt is not told twice."""
    candidates = scored["figures"] if figures is None else figures
    return [
        figure
        for figure in candidates
        if not (figure.startswith("cost/") and _is_mean_of_all(scored, figure.split("/", 1)[1]))
    ]


def _is_mean_of_all(scored: Scored, name: str) -> bool:
    about = scored["constraints"][name]
    return about["measure"] == "mean" and not about["subset"]


def signal_title(signal: str, scored: Scored) -> str:
    """What a win rate is by."""
    return _PLAIN.get(signal) or f"Lower cost “{signal.split('/', 1)[1]}”"


def set_title(name: str) -> str:
    """A set of prompts in words."""
    return "Prompts kept from training" if name == KEPT else f"Set “{name}”"


def mark(scored: Scored, figure: str, difference: Mapping[str, Any] | None) -> str:
    """``better`` or ``worse`` by the score models: where Holm's test says so, or, where it was not asked, the interval."""
    if difference is not None and difference.get("different") is False:
        return ""
    better = scored["figures"][figure]["better"]
    if difference is not None and difference.get("different"):
        return "better" if (difference["value"] > 0) == (better > 0) else "worse"
    return direction_mark(better, difference)


def pair(scored: Scored, path: Path, figure: str, difference: Mapping[str, Any] | None) -> tuple[Figure, ...]:
    """One figure of SFT and of the policy, found by `path` below ``scored``; the policy's is marked."""
    by_model = look(scored, path)
    share = scored["figures"][figure]["share"]
    tone = mark(scored, figure, difference)
    cells = tuple(
        cell_figure(
            by_model.get(model, {}).get(figure),
            share=share,
            key=key_of((*path, model, figure)),
            label=MODEL_NAMES[model],
            mark=tone if model == "policy" else "",
        )
        for model in MODEL_NAMES
        if model in by_model
    )
    return cells if any(cell.value is not None for cell in cells) else (cell_figure(None, share=False),)


def look(document: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """What is at a path; nothing where there is none."""
    part: Any = document
    for step in path:
        part = part.get(step) or {}
    return part if isinstance(part, Mapping) else {}


def key_of(path: Path) -> str:
    """The dotted path in summary.json; nothing where a name of the data has a dot of its own."""
    return "" if any("." in step for step in path) else ".".join(("scored", *path))
