"""Which code makes a result, and its digest: from entry points along every reference through the project's sources.

A digest changes with the logic of anything that can be reached and with content that is no code (prompts, templates, worlds) in
the folders of reached modules. It does not change with docstrings, comments, layout, names of locals, or code that nothing
reached refers to. Equal for equal sources under one minor version of Python.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from cluster.run_folder.digests import digest, file_digest
from cluster.run_folder.source_logic import Reference, Source

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("cluster", "serving", "actors", "learner", "configs")
CARRIERS = (
    "cluster.commands",
    "cluster.jobs",
    "cluster.observability",
    "cluster.resources",
    "cluster.runs.context",
    "cluster.run_folder.manifest",
    "cluster.run_folder.metrics_log",
    "cluster.run_folder.remote_store",
    "cluster.run_folder.status",
    "configs",
    "learner.deadlines",
    "serving",
)
"""What carries a run and makes none of its figures: engines' places, progress, records, pages. References to it are not followed.

`configs` declares settings, and a stage's key has their values. What the engines of `cluster.resources` run is given as entries.
"""

Entry = str
"""``package.module:name``, or ``package.module`` for everything in it."""


@cache
def code_digest(entries: tuple[Entry, ...], root: Path = ROOT) -> str:
    """sha256 (hex) of the logic that the entries can reach.

    Raises:
        ValueError: an entry is not there.
    """
    code = reached_code(entries, root)
    logic = {f"{module}:{name}": _source(root, module).logic(name) for module, name in code.definitions}
    tops = {module: _source(root, module).top for module in code.modules}
    content = {path.relative_to(root).as_posix(): file_digest(path) for path in code.content}
    return digest({"definitions": logic, "modules": tops, "content": content})


class ReachedCode:
    """Definitions (module, name), modules and content files that a result depends on."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.definitions: set[tuple[str, str]] = set()
        self.modules: set[str] = set()

    @property
    def content(self) -> list[Path]:
        """Files that are no Python in the reached modules' folders, and in folders below that are no packages."""
        folders = {_path(self._root, module).parent for module in self.modules}
        return sorted({path for folder in folders for path in _content_of(folder)})

    def follow(self, references: Iterable[Reference]) -> None:
        """Reach these, and everything that they refer to."""
        waiting = list(references)
        while waiting:
            waiting += self._reach(waiting.pop())

    def _reach(self, reference: Reference) -> Iterator[Reference]:
        module, name = reference.module, reference.attribute
        if name is not None and (self._root.joinpath(*module.split("."), f"{name}.py")).is_file():
            # `from package import module`: only what is then used of the module counts, and that is a reference of its own.
            module, name = f"{module}.{name}", ""
        if not _is_followed(module) or not _exists(self._root, module):
            return
        source = _source(self._root, module)
        if module not in self.modules:
            self.modules.add(module)
            for statement in source.always_run:
                yield from _named(module, source.references(statement))
        for definition in source.definitions if name is None else (name,):
            yield from self._reach_definition(module, definition, source)

    def _reach_definition(self, module: str, name: str, source: Source) -> Iterator[Reference]:
        if name in source.definitions:
            if (module, name) not in self.definitions:
                self.definitions.add((module, name))
                yield from _named(module, source.references(source.definitions[name]))
        elif name in source.imports:  # handed on from another module
            yield source.imports[name]


@cache
def reached_code(entries: tuple[Entry, ...], root: Path = ROOT) -> ReachedCode:
    """Everything that the entries can reach; errors as of `code_digest`."""
    code = ReachedCode(root)
    for entry in entries:
        module, _, name = entry.partition(":")
        if not _exists(root, module) or (name and name not in _source(root, module).definitions):
            raise ValueError(f"no code {entry}: a stage's entry names a module and maybe a function in it")
        code.follow([Reference(module, name or None)])
    return code


def _named(module: str, references: Iterable[Reference | str]) -> Iterator[Reference]:
    for reference in references:
        yield Reference(module, reference) if isinstance(reference, str) else reference


def _is_followed(module: str) -> bool:
    is_ours = module.split(".")[0] in ROOMS
    return is_ours and not any(module == carrier or module.startswith(f"{carrier}.") for carrier in CARRIERS)


@cache
def _exists(root: Path, module: str) -> bool:
    return _path(root, module).is_file()


def _path(root: Path, module: str) -> Path:
    place = root.joinpath(*module.split("."))
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


@cache
def _source(root: Path, module: str) -> Source:
    return Source(_path(root, module))


def _content_of(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_dir() and path.name != "__pycache__" and not (path / "__init__.py").exists():
            yield from (file for file in path.rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc"))
        elif path.is_file() and path.suffix not in (".py", ".pyc"):
            yield path
