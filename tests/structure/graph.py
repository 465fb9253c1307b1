"""Folders as floors: which entry of a folder imports which, how long the chains are, and what goes in circles."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import grimp
import networkx as nx

PACKAGES = ("cluster", "serving", "actors", "learner", "configs")


@dataclass(frozen=True)
class FolderStructure:
    """One package, seen as a building: its entries are rooms, and an import goes from a floor to one below it."""

    package: str
    entries: int
    """Modules and packages directly in it."""
    floors: int
    """Length of the longest chain of entries that import each other, once imports against the grain are left out."""
    against_the_grain: int
    """Imports, module to module, that go up in the order of entries with the fewest such imports that was found."""
    circles: int
    """Groups of entries that import each other."""


def import_graph() -> grimp.ImportGraph:
    """Every import of the project; those for type checking alone do not count."""
    return grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)


def packages_below(root: Path) -> list[str]:
    """Every package that holds at least two entries, as a dotted name."""
    folders = [
        init.parent.relative_to(root) for name in PACKAGES for init in sorted((root / name).rglob("__init__.py"))
    ]
    return [".".join(folder.parts) for folder in folders if len(entries_of(root, ".".join(folder.parts))) > 1]


def entries_of(root: Path, package: str) -> list[str]:
    """Names of the modules and packages directly in a package."""
    folder = root.joinpath(*package.split("."))
    modules = [path.stem for path in folder.glob("*.py") if path.stem != "__init__"]
    return sorted([*modules, *(path.parent.name for path in folder.glob("*/__init__.py"))])


def structure_of(graph: grimp.ImportGraph, root: Path, package: str) -> FolderStructure:
    """Count one package's entries, floors, imports against the grain and circles."""
    names = entries_of(root, package)
    imports = _imports_between(graph, package, frozenset(names))
    directed = nx.DiGraph()
    directed.add_nodes_from(names)
    directed.add_weighted_edges_from((*pair, count) for pair, count in sorted(imports.items()))
    circles = [group for group in nx.strongly_connected_components(directed) if len(group) > 1]
    upward = _against_the_grain(directed, circles)
    directed.remove_edges_from(upward)
    floors = nx.dag_longest_path_length(directed, weight=None) + 1 if names else 0
    return FolderStructure(package, len(names), floors, sum(imports[pair] for pair in upward), len(circles))


def _imports_between(graph: grimp.ImportGraph, package: str, names: frozenset[str]) -> Counter[tuple[str, str]]:
    prefix = f"{package}."
    imports: Counter[tuple[str, str]] = Counter()
    for importer in graph.modules:
        if not importer.startswith(prefix):
            continue
        source = importer.removeprefix(prefix).split(".")[0]
        for imported in graph.find_modules_directly_imported_by(importer):
            target = imported.removeprefix(prefix).split(".")[0]
            if imported.startswith(prefix) and target in names and source != target:
                imports[source, target] += 1
    return imports


def _against_the_grain(directed: nx.DiGraph, circles: list[set[str]]) -> list[tuple[str, str]]:
    """The lightest import of each circle, again and again, until no circle is left."""
    upward: list[tuple[str, str]] = []
    for group in circles:
        part = nx.DiGraph(
            (*edge, {"weight": weight}) for *edge, weight in sorted(directed.subgraph(group).edges(data="weight"))
        )
        while not nx.is_directed_acyclic_graph(part):
            cycle = [(source, target) for source, target, *_ in nx.find_cycle(part)]
            lightest = min(cycle, key=lambda edge: (part.edges[edge]["weight"], edge))
            part.remove_edge(*lightest)
            upward.append(lightest)
    return upward
