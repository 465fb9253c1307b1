"""The structure of the project as figures: ``python tests/structure/measure.py [ROOT] [--json]``.

Part of `make lint`: it exits with 1 where a figure is above its budget in `budgets.json`. Another checkout can be given as ROOT,
to compare a structure before and after a change; then nothing is held against the budgets.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from graph import PACKAGES, FolderStructure, import_graph, packages_below, structure_of
from names import Place, rare_words, vague_names

ROOT = Path(__file__).resolve().parents[2]
BUDGETS = Path(__file__).with_name("budgets.json")


def measure(root: Path) -> dict[str, Any]:
    """Every figure of a checkout: per package, and of names and words per 10,000 lines of product code."""
    graph = import_graph()
    folders = [structure_of(graph, root, package) for package in packages_below(root)]
    lines, vague, rare = _words(root)
    return {
        "packages": {folder.package: asdict(folder) for folder in folders},
        "against_the_grain": sum(folder.against_the_grain for folder in folders),
        "circles": sum(folder.circles for folder in folders),
        "lines": lines,
        "vague_names": len(vague),
        "vague_names_per_10000": round(1e4 * len(vague) / lines, 1),
        "rare_words": len(rare),
        "rare_words_per_10000": round(1e4 * len(rare) / lines, 1),
        "places": [str(place) for place in (*vague, *rare)],
    }


def over_budget(figures: dict[str, Any], budgets: dict[str, Any]) -> list[str]:
    """A sentence for each figure that is above its budget."""
    problems = [
        f"{name} is {figures[name]}, the budget is {budgets[name]}"
        for name in ("against_the_grain", "circles", "vague_names_per_10000", "rare_words_per_10000")
        if figures[name] > budgets[name]
    ]
    for package, limits in budgets["packages"].items():
        for name, limit in limits.items():
            value = figures["packages"].get(package, {}).get(name, 0)
            if value > limit:
                problems.append(f"{package} has {value} {name}, the budget is {limit}")
    return problems


def _words(root: Path) -> tuple[int, list[Place], list[Place]]:
    lines, vague, rare = 0, list[Place](), list[Place]()
    for path in sorted(file for package in PACKAGES for file in (root / package).rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        lines += source.count("\n")
        vague += vague_names(path.relative_to(root), source)
        rare += rare_words(path.relative_to(root), source)
    return lines, vague, rare


def _table(figures: dict[str, Any]) -> str:
    heading = f"{'package':<40}{'entries':>8}{'floors':>8}{'against':>9}{'circles':>9}"
    rows = [heading]
    for document in figures["packages"].values():
        folder = FolderStructure(**document)
        rows.append(
            f"{folder.package:<40}{folder.entries:>8}{folder.floors:>8}{folder.against_the_grain:>9}{folder.circles:>9}"
        )
    rows.append(
        f"{figures['lines']:,} lines; per 10,000 of them {figures['vague_names_per_10000']} vague names and "
        f"{figures['rare_words_per_10000']} rare words"
    )
    return "\n".join(rows)


def main() -> int:
    """Print the figures; 1 where one is above its budget."""
    parser = argparse.ArgumentParser(description="Entries, floors, imports against the grain, circles, vague names.")
    parser.add_argument("root", nargs="?", type=Path, default=ROOT, help="A checkout; else this one.")
    parser.add_argument("--json", action="store_true", help="Print JSON for a script.")
    parser.add_argument("--quiet", action="store_true", help="Print only what is above its budget.")
    arguments = parser.parse_args()
    root = arguments.root.resolve()
    sys.path.insert(0, str(root))
    figures = measure(root)
    if arguments.json:
        print(json.dumps(figures, indent=1))
    elif not arguments.quiet:
        print(_table(figures))
    if root != ROOT:
        return 0
    problems = over_budget(figures, json.loads(BUDGETS.read_text(encoding="utf-8")))
    for problem in problems:
        print(f"structure: {problem}; see: python tests/structure/measure.py --json", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
