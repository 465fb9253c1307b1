"""Names and words that tell a reader nothing: locals such as `found`, and words that few readers of English know."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

VAGUE = frozenset(Path(__file__).with_name("vague_names.txt").read_text(encoding="utf-8").split())
"""Names of locals and parameters that do not say what they hold.

`now` is not among them, for a clock's value has no better name; nor are `read` and `say`, which name functions by what they do.
"""
RARE = re.compile(
    r"\b(amid|anew|asunder|beside|betimes|ere|forthwith|hence|hitherto|lay|lies?|mend(s|ed|ing)?|nobody|nought|thereby|"
    r"thus|whence|whereof|whoever)\b",
    re.IGNORECASE,
)
"""Words that are old, poetic or ambiguous where a plain one exists."""
MAY_BE_RARE = frozenset({"actors/crowd/generator.py"})
"""Sources whose words are material, not prose: the verbs of the sandbox's generator."""


@dataclass(frozen=True)
class Place:
    """Where a name or word is."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


def vague_names(path: Path, source: str) -> Iterator[Place]:
    """Locals and parameters with a vague name, each once per function."""
    reported: set[tuple[int, str]] = set()
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for name, line in _bound_names(function):
                if name in VAGUE and (function.lineno, name) not in reported:
                    reported.add((function.lineno, name))
                    yield Place(str(path), line, name)


def _bound_names(function: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno


def rare_words(path: Path, source: str) -> Iterator[Place]:
    """Rare words in code, docstrings, comments and messages."""
    if str(path) in MAY_BE_RARE:
        return
    for number, line in enumerate(source.splitlines(), start=1):
        for match in RARE.finditer(line):
            yield Place(str(path), number, match[0])
