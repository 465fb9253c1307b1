"""Finding somebody's Python function by its name, and saying in one line what is wrong with it.

Imports no engine and no Ray: a configuration's scorers are checked before anything is started.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from traceback import walk_tb
from typing import Any

from configs.exits import ConfigError

ScoreFunction = Callable[..., Any]
"""Called with a list of conversations (each a list of ``{"role": …, "content": …}`` whose last turn is the assistant's
response) and the options' arguments by name; returns as many floats in the same order, or an awaitable of them."""

MESSAGE_CHARACTERS = 200
"""Of a foreign error's message; an endless one would fill logs and the driver's memory."""

_OWN_FILES = frozenset({__file__, str(Path(__file__).with_name("function_thread.py"))})
"""Frames of a traceback that say nothing of the function."""


def load_function(spec: str) -> ScoreFunction:
    """What ``package.module:function`` names; importing the module runs its code.

    Raises:
        ConfigError: the module or function is not there, importing raised, or it is no function.
    """
    module_name, _, path = spec.partition(":")
    if not all(attribute.isidentifier() for name in (module_name, path) for attribute in name.split(".")):
        raise ConfigError(f"scorer {spec!r}: write it as module:function, such as my_rules:brevity")
    target: Any = _import(module_name, spec)
    for attribute in path.split("."):
        if not hasattr(target, attribute):
            close = get_close_matches(attribute, dir(target), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ConfigError(f"scorer {spec!r}: {module_name} has no {path!r}{hint}")
        target = getattr(target, attribute)
    if inspect.isclass(target) or not callable(target):
        raise ConfigError(f"scorer {spec!r}: {path} is {kind_of(target)}, not a function: name one")
    return target


def check_call(function: ScoreFunction, arguments: Mapping[str, Any], name: str) -> None:
    """Find out now, not at the first sample, that the arguments do not fit.

    Raises:
        ConfigError: the function cannot be called with conversations and these arguments.
    """
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # of some functions in C nothing is known
        return
    try:
        signature.bind([], **arguments)
    except TypeError as error:
        raise ConfigError(
            f"scorer {name!r} cannot be called with conversations and the arguments {sorted(arguments)}: {error}"
        ) from error


def source_digest(function: ScoreFunction) -> str | None:
    """sha256 (hex) of the file that the function is written in; None of one that has no Python source.

    What that file imports is not part of it.
    """
    try:
        file = inspect.getsourcefile(inspect.unwrap(function))
    except TypeError:  # of a function in C, or an object with __call__
        return None
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file and Path(file).is_file() else None


def describe(error: BaseException) -> str:
    """One line of a foreign error: its type, the start of its message, and the file and line that raised it."""
    try:
        message = " ".join(str(error).split())
    except Exception:  # noqa: BLE001  a foreign __str__ may raise anything
        message = "its message cannot be shown"
    if len(message) > MESSAGE_CHARACTERS:
        message = f"{message[:MESSAGE_CHARACTERS]}…"
    places = [(frame.f_code.co_filename, line) for frame, line in walk_tb(error.__traceback__)]
    foreign = [f"{Path(file).name}:{line}" for file, line in places if file not in _OWN_FILES]
    return type(error).__name__ + (f": {message}" if message else "") + (f" ({foreign[-1]})" if foreign else "")


def kind_of(value: Any) -> str:
    """A foreign value in words: ``None``, a short text itself, or its type with an article."""
    if value is None:
        return "None"
    if isinstance(value, (str, bool)):
        return repr(value[:40]) if isinstance(value, str) else str(value)
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _import(module_name: str, spec: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigError(f"scorer {spec!r}: {module_name} could not be imported: {describe(error)}") from error
        raise ConfigError(
            f"scorer {spec!r}: there is no module {error.name!r}: install it, or put its folder on PYTHONPATH, "
            "wherever scorers run"
        ) from error
    except (Exception, SystemExit) as error:  # of a foreign module's code
        raise ConfigError(f"scorer {spec!r}: {module_name} could not be imported: {describe(error)}") from error
