"""Which model made what, round by round: a drawing and the table of digests, from the records of rounds.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes

from serving.report.blocks.blocks import Picture
from serving.report.blocks.charts import Scheme, picture

Records = Sequence[Mapping[str, Any]]
_PLACES = {"start": 0.0, "pairs": 1.0, "models": 2.0, "policy": 3.0}
"""Across, in the order in which a round makes them; rounds go down."""


def lineage_picture(rounds: Records) -> Picture:
    """A row per round: what it started from, whose pairs it collected, the score models, and the policy that came out."""
    arrows = _arrows(rounds)

    def draw(axes: Axes, scheme: Scheme) -> None:
        box = {"boxstyle": "round,pad=0.35", "facecolor": "none", "edgecolor": scheme.before, "linewidth": 0.9}
        for row, record in enumerate(rounds):
            for name, text in _texts(record).items():
                axes.text(_PLACES[name], -row, text, ha="center", va="center", fontsize=8, color=scheme.text, bbox=box)
        for (from_name, from_row), (to_name, to_row), again in arrows:
            colour = scheme.after if again else scheme.before
            style = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.1, "shrinkA": 30, "shrinkB": 30}
            axes.annotate("", (_PLACES[to_name], -to_row), (_PLACES[from_name], -from_row), arrowprops=style)
        axes.set_xlim(-0.55, 3.55)
        axes.set_ylim(-len(rounds) + 0.4, 0.6)
        axes.set_axis_off()

    descriptions = [
        f"Round {record['round']} starts from {record['models']['start']['name']}, collects "
        + " and ".join(f"{source['pairs']:,} pairs of {source['model']}" for source in record["pairs"]["sources"])
        + f", trains on {record['pairs']['training']:,} and makes {record['models']['policy']['name']}"
        for record in rounds
    ]
    title = "Lineage: data and models of each round (blue: from one round to the next)"
    return picture(title, "; ".join(descriptions) + ".", draw, width=7.0, height=0.5 + 1.1 * len(rounds), wide=True)


def _texts(record: Mapping[str, Any]) -> dict[str, str]:
    models, pairs = record["models"], record["pairs"]
    sources = "\n".join(f"{source['pairs']:,} of {source['model']}" for source in pairs["sources"])
    costs = "".join(f"\ncost {name} {_short(digest)}" for name, digest in models["costs"].items())
    return {
        "start": f"round {record['round']}\nstarts from {models['start']['name']}\n{_short(models['start']['digest'])}",
        "pairs": f"pairs\n{sources}",
        "models": f"reward {_short(models['reward'])}{costs}\non {pairs['training']:,} pairs",
        "policy": f"{models['policy']['name']}\n{_short(models['policy']['digest'])}",
    }


def _arrows(rounds: Records) -> list[tuple[tuple[str, int], tuple[str, int], bool]]:
    """(from, to, whether it crosses rounds); ends are (place, row)."""
    policy_rows = {record["models"]["policy"]["name"]: row for row, record in enumerate(rounds)}
    arrows: list[tuple[tuple[str, int], tuple[str, int], bool]] = []
    for row, record in enumerate(rounds):
        arrows += [((first, row), (second, row), False) for first, second in pairwise(_PLACES)]
        start = policy_rows.get(record["models"]["start"]["name"])
        if start is not None and start < row:
            arrows.append((("policy", start), ("start", row), True))
        sources = {
            policy_rows[source["model"]] for source in record["pairs"]["sources"] if source["model"] in policy_rows
        }
        arrows += [(("policy", source), ("pairs", row), True) for source in sorted(sources) if source < row]
        if row:
            arrows.append((("pairs", row - 1), ("models", row), True))
    return arrows


def _short(digest: str | None) -> str:
    return "–" if digest is None else digest[:6]
