"""A Python source as what it does: its definitions without docstrings, comments and layout, and what each refers to."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
Definition = FunctionNode | ast.ClassDef
Scope = FunctionNode | ast.Lambda
_CODE = re.compile(r"(?P<module>[a-z_]+(\.[a-z_0-9]+)+)(:(?P<name>\w+))?")
Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


@dataclass(frozen=True)
class Reference:
    """A name of another module: `attribute` of `module`, or all of it where that is None."""

    module: str
    attribute: str | None


class Source:
    """One module's source."""

    def __init__(self, path: Path) -> None:
        self._tree = _without_docstrings(ast.parse(path.read_bytes(), filename=str(path)))
        self._references: dict[ast.stmt, set[Reference | str]] = {}

    @cached_property
    def definitions(self) -> Mapping[str, ast.stmt]:
        """Functions, classes and assigned constants of the module's top, by name."""
        by_name: dict[str, ast.stmt] = {}
        for statement in self._statements():
            if isinstance(statement, Definition):
                by_name[statement.name] = statement
            for target in _assigned(statement):
                by_name[target] = statement
        return by_name

    @cached_property
    def imports(self) -> Mapping[str, Reference]:
        """What names of the module's top refer to in other modules; imports for type checking alone are no code."""
        return dict(_imports(node for node in self._tree.body if not _is_type_checking(node)))

    @property
    def top(self) -> str:
        """What importing the module does: every statement at its top but functions, classes and imports, canonically."""
        return self._canonical_texts[0]

    @cached_property
    def always_run(self) -> tuple[ast.stmt, ...]:
        """Statements at the top that run on import and define no constant, such as a registration."""
        return tuple(
            node for node in self._statements() if not isinstance(node, Definition) and not list(_assigned(node))
        )

    def logic(self, name: str) -> str:
        """The canonical text of a definition: equal where only docstrings, comments, layout or names of locals differ."""
        return self._canonical_texts[1].get(name, "")  # a constant is in `top`

    @cached_property
    def _canonical_texts(self) -> tuple[str, dict[str, str]]:
        for statement in self._statements():
            self.references(statement)  # before `_Locals` renames what they are read from
        texts = [(statement, ast.unparse(_Locals().visit(statement))) for statement in self._statements()]
        top = "\n".join(text for statement, text in texts if not isinstance(statement, Definition))
        return top, {statement.name: text for statement, text in texts if isinstance(statement, Definition)}

    def references(self, node: ast.stmt) -> set[Reference | str]:
        """What a statement refers to: names of this module (text), and of others."""
        if node not in self._references:
            self._references[node] = self._find_references(node)
        return self._references[node]

    def _find_references(self, statement: ast.stmt) -> set[Reference | str]:
        chains: list[list[str]] = []
        inner: dict[str, Reference] = {}
        referenced: set[Reference | str] = set()
        for node in ast.walk(statement):
            if isinstance(node, ast.Name | ast.Attribute):
                chains += _name_chain(node)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                inner.update(_imports([node]))
            elif isinstance(node, ast.Constant):
                referenced |= _code_named_in(node)
        imported = {**self.imports, **inner}
        referenced |= set(inner.values())
        for first, *attributes in chains:
            if first in imported:
                referenced |= _resolved(imported[first], attributes)
            elif first in self.definitions:
                referenced.add(first)
        return referenced

    def _statements(self) -> Iterator[ast.stmt]:
        for node in self._tree.body:
            if not isinstance(node, ast.Import | ast.ImportFrom) and not _is_type_checking(node):
                yield node


def _resolved(reference: Reference, attributes: list[str]) -> set[Reference | str]:
    """An imported name and its attributes: ``module.function`` refers to the function, a bare module to all of it."""
    if reference.attribute is not None:
        # `from package import module` and then `module.function`: which of the two it is, the file system says.
        return {
            reference,
            *({Reference(f"{reference.module}.{reference.attribute}", attributes[0])} if attributes else ()),
        }
    return {Reference(reference.module, attributes[0] if attributes else None)}


def _imports(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, Reference]]:
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    yield alias.asname, Reference(alias.name, None)
                else:
                    yield alias.name.split(".")[0], Reference(alias.name, None)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                yield alias.asname or alias.name, Reference(node.module, alias.name)


def _name_chain(node: ast.Name | ast.Attribute) -> list[list[str]]:
    """``a.b.c`` as ``[[a, b, c]]``; nothing where it is an attribute of something that has no name."""
    attributes: list[str] = []
    value: ast.expr = node
    while isinstance(value, ast.Attribute):
        attributes.append(value.attr)
        value = value.value
    return [[value.id, *reversed(attributes)]] if isinstance(value, ast.Name) else []


def _code_named_in(text: ast.Constant) -> set[Reference | str]:
    """Code that a text names, ``package.module`` or ``package.module:name``, as entries and late imports do."""
    match = _CODE.fullmatch(text.value) if isinstance(text.value, str) else None
    return {Reference(match["module"], match["name"])} if match else set()


def _assigned(statement: ast.stmt) -> Iterator[str]:
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign | ast.AugAssign):
        targets = [statement.target]
    for target in targets:
        yield from (
            name.id for name in ast.walk(target) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
        )


def _is_type_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):  # a bare text is a docstring of its module, class, function or field
            code = [statement for statement in body if not _is_text(statement)]
            node.body = code if code or isinstance(node, ast.Module) else [ast.Pass()]  # type: ignore[attr-defined]
    return tree


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


class _Locals(ast.NodeTransformer):
    """Names locals by the order in which they are bound, so that another name for one changes nothing.

    Parameters keep their names, for callers may use them; so do names that a ``global``, ``nonlocal`` or import binds.
    """

    def __init__(self) -> None:
        self._scopes: list[dict[str, str]] = []

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._function(node)

    def _function(self, node: FunctionNode) -> ast.AST:
        node.name = self._new_name(node.name)
        node.decorator_list = [self.visit(decorator) for decorator in node.decorator_list]
        node.args = self.visit(node.args)  # defaults are of the scope outside
        self._scopes.append(self._names_of(node))
        node.body = [self.visit(statement) for statement in node.body]
        self._scopes.pop()
        return node

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        node.args = self.visit(node.args)
        self._scopes.append({name: name for name in _parameters(node)})
        node.body = self.visit(node.body)
        self._scopes.pop()
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        if self._scopes:  # in a function: its attributes are no locals
            node.name = self._new_name(node.name)
            self._scopes.append({name: name for statement in node.body for name in _bound_in(statement)})
            self.generic_visit(node)
            self._scopes.pop()
            return node
        return self.generic_visit(node)

    def visit_ListComp(self, node: ast.ListComp) -> ast.AST:
        return self._comprehension(node)

    def visit_SetComp(self, node: ast.SetComp) -> ast.AST:
        return self._comprehension(node)

    def visit_DictComp(self, node: ast.DictComp) -> ast.AST:
        return self._comprehension(node)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> ast.AST:
        return self._comprehension(node)

    def _comprehension(self, node: Comprehension) -> ast.AST:
        node.generators[0].iter = self.visit(node.generators[0].iter)  # it alone is of the scope outside
        names = [name for part in node.generators for name in _stored(part.target)]
        self._scopes.append(self._numbered(names))
        self.generic_visit(node)
        self._scopes.pop()
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        node.id = self._new_name(node.id)
        return node

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:
        if node.name is not None:
            node.name = self._new_name(node.name)
        return self.generic_visit(node)

    def _names_of(self, node: FunctionNode) -> dict[str, str]:
        bound = [name for statement in node.body for name in _bound_in(statement)]
        fixed = {*_parameters(node), *_declared_elsewhere(node)}
        return {name: name for name in fixed} | self._numbered([name for name in bound if name not in fixed])

    def _numbered(self, names: list[str]) -> dict[str, str]:
        depth = len(self._scopes)
        return {name: f"_{depth}_{index}" for index, name in enumerate(dict.fromkeys(names))}

    def _new_name(self, name: str) -> str:
        for scope in reversed(self._scopes):
            if name in scope:
                return scope[name]
        return name


def _parameters(node: Scope) -> list[str]:
    arguments = node.args
    every_argument = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    return [argument.arg for argument in every_argument if argument is not None]


def _declared_elsewhere(node: FunctionNode) -> Iterator[str]:
    for child in ast.walk(node):
        if isinstance(child, ast.Global | ast.Nonlocal):
            yield from child.names
        elif isinstance(child, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name.split(".")[0] for alias in child.names)


def _bound_in(node: ast.AST) -> Iterator[str]:
    """Names that a statement binds in its own scope, in order; not in scopes inside it."""
    if isinstance(node, Definition):
        yield node.name
        return
    if isinstance(node, ast.Lambda | Comprehension):
        yield from (walrus.target.id for walrus in ast.walk(node) if isinstance(walrus, ast.NamedExpr))
        return
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
        yield node.id
    if isinstance(node, ast.ExceptHandler) and node.name is not None:
        yield node.name
    for child in ast.iter_child_nodes(node):
        yield from _bound_in(child)


def _stored(target: ast.AST) -> Iterator[str]:
    yield from (name.id for name in ast.walk(target) if isinstance(name, ast.Name))
