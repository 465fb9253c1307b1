"""Turns a pydantic error into one line: which key, why, what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from configs.yaml_reader import KeyPath

_WANTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a text (quote it if it looks like a number)",
    "tuple_type": "a list such as [a, b]",
    "dict_type": "a mapping such as {key: value}",
    "model_type": "a mapping such as {key: value}",
    "path_type": "a path",
}


def first_problem(error: ValidationError, root: type[BaseModel]) -> tuple[KeyPath, str]:
    """The first problem of a failed validation as (key path, sentence); an unknown key first: it explains others."""
    problems = error.errors(include_url=False)
    problem = next((entry for entry in problems if entry["type"] == "extra_forbidden"), problems[0])
    path = tuple(str(part) for part in problem["loc"])
    return path, _sentence(problem, path, root)


def closest(text: str, choices: list[str]) -> str | None:
    """The choice that a mistyped text probably means."""
    matches = difflib.get_close_matches(text, choices, n=1, cutoff=0.6)
    return matches[0] if matches else None


def suggestion(text: str, choices: list[str]) -> str:
    """``did you mean 'x'?`` or the list of the choices."""
    near = closest(text, choices)
    return f"did you mean '{near}'?" if near else f"known here: {', '.join(choices)}"


def key_tree(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every dotted key of a settings class; ``<name>`` stands for a free name, ``<n>`` for a place in a list."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        inner, step = _model_inside(field.annotation)
        if inner is None:
            keys.append(key)
        else:
            keys += key_tree(inner, f"{key}.{step}.".replace("..", "."))
    return keys


def _sentence(problem: Mapping[str, Any], path: KeyPath, root: type[BaseModel]) -> str:
    kind, context = problem["type"], problem.get("ctx", {})
    input_text = _shown(problem["input"])
    if kind == "extra_forbidden":
        return f"unknown key; {_unknown_key_hint(path, root)}"
    if kind == "missing":
        return "is missing; give it a value"
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        allowed = str(context["expected"]).replace("'", "").replace(" or ", ", ")
        near = closest(str(problem["input"]), allowed.split(", "))
        hint = f"; did you mean '{near}'?" if near else ""
        return f"{input_text} is not one of {allowed}{hint}"
    if kind in _WANTED:
        return f"{input_text} is not {_WANTED[kind]}"
    bounds = {
        "greater_than": "above",
        "greater_than_equal": "at least",
        "less_than": "below",
        "less_than_equal": "at most",
    }
    if kind in bounds:
        (limit,) = (value for key, value in context.items() if key in ("gt", "ge", "lt", "le"))
        return f"{input_text} is out of range; it must be {bounds[kind]} {limit:g}"
    return f"{input_text}: {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _unknown_key_hint(path: KeyPath, root: type[BaseModel]) -> str:
    model: type[BaseModel] | None = root
    parts = iter(path[:-1])
    for part in parts:
        field = model.model_fields.get(part) if model else None
        model, step = _model_inside(field.annotation) if field else (None, "")
        if step:
            next(parts, None)
    if model is None:
        return "remove it"
    elsewhere = [key for key in key_tree(root) if key.rsplit(".", 1)[-1] == path[-1]]
    elsewhere.sort(key=lambda key: key.count("."))  # the key meant is probably not a deep one
    if elsewhere:
        return f"did you mean {' or '.join(elsewhere[:3])}?"
    siblings = list(model.model_fields)
    near = closest(path[-1], siblings)
    if near:
        return f"did you mean '{near}'?"
    return f"known here: {', '.join(siblings)}"


def _model_inside(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    """(settings class of a field, what stands between the field and its keys: nothing, a free name, a place in a list)."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, ""
    step = {dict: "<name>", tuple: "<n>"}.get(get_origin(annotation), "")
    for argument in get_args(annotation):
        if isinstance(argument, type) and issubclass(argument, BaseModel):
            return argument, step
    return None, ""


def _shown(value: Any) -> str:
    text = (
        {True: "true", False: "false", None: "null"}[value] if value is None or isinstance(value, bool) else repr(value)
    )
    return text if len(text) <= 60 else f"{text[:57]}…"
