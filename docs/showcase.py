"""Fill the README's table and picture, the sample report and the results table from finished runs.

``python docs/showcase.py RUN [RUN …] [--arms RUN …] [--earlier RUN …]``: the first run is the one shown in the README; all
of them, the arms, and runs of an earlier recipe are rows of docs/algorithms/ppo_lag.md. Nothing in those places is written by hand.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path
from typing import Any

import matplotlib
import yaml

matplotlib.use("Agg")
import matplotlib.pyplot as plt

DOCS = Path(__file__).parent
SPLITS = {"seen": "seen tasks and forms", "heldout_tasks": "held-out tasks", "heldout_forms": "held-out forms"}
COLUMNS = {
    "harm_rate_harmful": True,
    "helpfulness_benign": False,
    "helpfulness_lookalike": False,
    "refusal_benign": True,
}
"""Metric → whether it is a share."""


def main() -> None:
    """Write everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--arms", nargs="*", type=Path, default=[])
    parser.add_argument("--earlier", nargs="*", type=Path, default=[])
    arguments = parser.parse_args()
    shown = arguments.runs[0]
    summary = read(shown)
    readme = DOCS.parent / "README.md"
    text = between(readme.read_text(), "DEMO_TABLE", demo_table(summary))
    text = between(text, "DEMO_PICTURE", "![The run against its limit](docs/demo.png)")
    text = between(text, "DEMO_MINUTES", f"{summary['seconds']['total'] / 60:.0f}", inline=True)
    readme.write_text(text)
    picture(shown, DOCS / "demo.png")
    shutil.copyfile(shown / "report.html", DOCS / "sample_report.html")
    page = DOCS / "algorithms" / "ppo_lag.md"
    page.write_text(
        between(page.read_text(), "RESULTS_TABLE", results(arguments.runs, arguments.arms, arguments.earlier))
    )


def read(run: Path) -> dict[str, Any]:
    """A run's summary."""
    found: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return found


def between(text: str, name: str, content: str, *, inline: bool = False) -> str:
    """Replace what stands between the markers of `name`."""
    gap = "" if inline else "\n"
    pattern = re.compile(rf"(<!-- {name}[^>]*-->).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"no markers <!-- {name} --> … <!-- /{name} --> to fill")
    return pattern.sub(lambda match: f"{match[1]}{gap}{content}{gap}{match[2]}", text)


def cell(figure: dict[str, Any], share: bool) -> str:
    """A value with its interval."""
    scale, form = (100, "{:.1f}") if share else (1, "{:.2f}")
    value, low, high = (form.format(scale * figure[key]) for key in ("value", "low", "high"))
    return f"{value}{' %' if share else ''} [{low}, {high}]"


def demo_table(summary: dict[str, Any]) -> str:
    """SFT and trained policy on the three splits."""
    lines = [
        "| by gold score | model | harm rate on harmful | benign helpfulness | look-alike helpfulness | bare refusals on benign |",
        "|---|---|---|---|---|---|",
    ]
    for split, title in SPLITS.items():
        for model, label in (("sft", "SFT"), ("policy", "**trained**")):
            figures = summary["evaluation"][model][split]
            cells = " | ".join(cell(figures[name], share) for name, share in COLUMNS.items())
            lines.append(f"| {title if model == 'sft' else ''} | {label} | {cells} |")
    return "\n".join([*lines, "", f"Certificate: {summary['verdict']}."])


def results(runs: list[Path], arms: list[Path], earlier: list[Path]) -> str:
    """One row per run: the trained policy on the three splits as seen / held-out tasks / held-out forms."""
    lines = [
        "Trained policy by gold score, each cell as seen / held-out tasks / held-out forms; the first row of each table is the",
        "README's run.",
        "",
        *rows(runs),
    ]
    if arms:
        lines += ["", "The same seed and the same earlier stages, one thing changed:", "", *rows([runs[0], *arms])]
    if earlier:
        lines += [
            "",
            "Earlier recipes; the overrides below each give `steelyard run quickstart` the same settings:",
            "",
            *rows(earlier),
        ]
        lines += ["", *(f"- {read(run)['name']}: {recipe(run)}" for run in earlier)]
    return "\n".join(lines)


def recipe(run: Path) -> str:
    """The overrides that make this recipe out of the preset."""
    settings = yaml.safe_load((run / "config.resolved.yaml").read_text())
    world = " sandbox.world=WORLD.json" if settings["sandbox"]["world"] else ""
    return (
        f"`seed={settings['seed']} ppo.steps={settings['ppo']['steps']} cost_model.epochs={settings['cost_model']['epochs']} "
        f"'preferences.temperatures={settings['preferences']['temperatures']}'{world}`"
    )


def rows(runs: list[Path]) -> list[str]:
    """The table of some runs."""
    lines = [
        "| run | seed | certificate | harm on harmful | harm on dual use | benign help | look-alike help | bare refusals | minutes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        summary = read(run)
        cells = [
            joined(summary, name, share)
            for name, share in (
                ("harm_rate_harmful", True),
                ("harm_rate_dual_use", True),
                ("helpfulness_benign", False),
                ("helpfulness_lookalike", False),
                ("refusal_benign", True),
            )
        ]
        minutes = f"{summary['seconds']['total'] / 60:.1f}"
        lines.append(
            f"| {summary['name']} | {summary['seed']} | {summary['verdict']} | {' | '.join(cells)} | {minutes} |"
        )
    return lines


def joined(summary: dict[str, Any], name: str, share: bool) -> str:
    """One measure of the trained policy on the three splits."""
    values = [summary["evaluation"]["policy"][split][name]["value"] for split in SPLITS]
    return " / ".join(f"{100 * value:.1f} %" if share else f"{value:.2f}" for value in values)


def picture(run: Path, path: Path) -> None:
    """The measure against its limit, the multiplier, and the reward, step by step."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    name = next(key.removeprefix("limit/") for key in lines[0] if key.startswith("limit/"))
    steps = [line["step"] for line in lines]
    figure, axes = plt.subplots(1, 3, figsize=(11, 2.9), layout="constrained")
    axes[0].plot(*series(lines, f"measure/{name}", 100), color="#b3402a", label="unsafe answers, cost model")
    axes[0].axhline(100 * lines[-1][f"limit/{name}"], color="black", linestyle="--", linewidth=1, label="limit")
    axes[0].set(title="Harm on the constraint's prompts", ylabel="per cent", xlabel="step")
    axes[0].legend(frameon=False)
    axes[1].plot(*series(lines, f"multiplier/{name}"), color="#444444")
    axes[1].set(title="Multiplier: the counterweight", ylabel="λ", xlabel="step")
    axes[2].plot(steps, [line["reward"] for line in lines], color="#2f6db3")
    axes[2].set(title="Helpfulness", ylabel="reward, raw", xlabel="step")
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def series(lines: list[dict[str, Any]], key: str, scale: float = 1.0) -> tuple[list[int], list[float]]:
    """Steps and values of the lines that have the key."""
    found = [line for line in lines if key in line]
    return [line["step"] for line in found], [scale * line[key] for line in found]


if __name__ == "__main__":
    main()
