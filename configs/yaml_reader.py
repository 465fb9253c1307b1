"""YAML as the presets use it: duplicate keys are errors, `1e-3` is a number, and every key knows its line.

Invariant: what `read_yaml` returns holds plain mappings with text keys, lists and scalars, nothing else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml

from configs.exits import ConfigError

KeyPath = tuple[str, ...]

_NULL, _BOOL, _INT, _FLOAT, _MERGE = (f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "merge"))


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core types: no `yes`/`off` booleans, no dates, no sexagesimal numbers, and `1e-3` is a float."""


_Loader.yaml_implicit_resolvers = {}
_Loader.add_implicit_resolver(_NULL, re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(_BOOL, re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(_INT, re.compile(r"[-+]?(?:0|[1-9][0-9_]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(r"[-+]?(?:(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+)$"),
    list("-+.0123456789"),
)


@dataclass(frozen=True)
class YamlDocument:
    """The values of one file and the line (from 1) of every key."""

    values: dict[str, Any]
    lines: dict[KeyPath, int]


def read_yaml(text: str, source: str) -> YamlDocument:
    """Parse one mapping.

    Args:
        text: the YAML.
        source: its name in errors, such as a file's.

    Raises:
        ConfigError: a syntax error, a duplicate key or another shape, with `source` and line.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ConfigError(f"{source}:{line}: not YAML: {' '.join(str(error.problem).split())}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not YAML: {' '.join(str(error).split())}") from error
    if node is None:
        return YamlDocument({}, {})
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(
            f"{source}:{node.start_mark.line + 1}: a configuration is a mapping; write `key: value` lines"
        )
    lines: dict[KeyPath, int] = {}
    loader = _Loader("")
    return YamlDocument(_mapping(node, (), source, lines, loader), lines)


def parse_value(text: str, source: str) -> Any:
    """The value of a `key=value` override; an empty text is null, as in YAML.

    Raises:
        ConfigError: not YAML.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: the value is not YAML: '{text}'; quote it, as in key='\"…\"'") from error
    return None if node is None else _value(node, (), source, {}, _Loader(""))


def _mapping(
    node: yaml.MappingNode, path: KeyPath, source: str, lines: dict[KeyPath, int], loader: _Loader
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == _MERGE or key_node.value == "<<":
            raise ConfigError(f"{source}:{line}: a key must be a word")
        key = key_node.value
        key_path = (*path, key)
        if key in values:
            first = lines[key_path]
            raise ConfigError(f"{source}:{line}: {'.'.join(key_path)} is given twice (first in line {first}); keep one")
        lines[key_path] = line
        values[key] = _value(value_node, key_path, source, lines, loader)
    return values


def _value(node: yaml.Node, path: KeyPath, source: str, lines: dict[KeyPath, int], loader: _Loader) -> Any:
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, source, lines, loader)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, path, source, lines, loader) for item in node.value]
    try:
        return loader.construct_object(node)
    except (yaml.YAMLError, ValueError) as error:
        line = node.start_mark.line + 1
        raise ConfigError(f"{source}:{line}: {'.'.join(path) or 'value'}: cannot read '{node.value}'") from error
