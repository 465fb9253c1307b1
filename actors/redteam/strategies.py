"""How each kind of attack talks to its victim: what its forms must look like, and what it says next.

The five kinds are those of the papers' red team (Dai et al. 2023, arXiv 2310.12773). Wording is the suite's; a strategy is
only the shape of the conversation. All are pure: what comes next follows from the form, the turn and the last answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from types import MappingProxyType
from typing import Protocol


@dataclass(frozen=True)
class Shape:
    """What a strategy may look at of a form."""

    turns: tuple[str, ...]
    """The attacker's turns, as templates."""
    request: frozenset[str]
    """Placeholders of the request itself."""
    after_refusal: str | None = None
    """Said once in place of the next turn, or after the last one, when the victim has just declined."""


class Strategy(Protocol):
    """One kind of attack."""

    def problem(self, shape: Shape) -> str | None:
        """Why a form is not of this kind; None when it is."""
        ...

    def next_turn(self, shape: Shape, used_templates: Sequence[str], declined: bool) -> str | None:
        """The template of what to say after the templates used so far; None ends the conversation.

        Args:
            declined: whether the victim's last answer refused.
        """
        ...


@dataclass(frozen=True)
class OneTurn:
    """Everything in one turn. The request's place in it tells the kinds apart."""

    before: bool = False
    """Words must come before the request."""
    after: bool = False
    """Words must come after the request."""

    def problem(self, shape: Shape) -> str | None:
        """As `Strategy`."""
        if len(shape.turns) != 1:
            return f"has {len(shape.turns)} turns, and this strategy has one"
        if shape.after_refusal is not None:
            return "has 'after_refusal', which only an attack of several turns can say"
        before, after = _around(shape.turns[0], shape.request)
        if self.before and not before:
            return "has nothing before the request, which this strategy builds on"
        if self.after and not after:
            return "has nothing after the request, and an embedded command has other commands on both sides"
        return None

    def next_turn(self, shape: Shape, used_templates: Sequence[str], declined: bool) -> str | None:
        """As `Strategy`."""
        return None if used_templates else shape.turns[0]


@dataclass(frozen=True)
class Escalation:
    """Turn by turn towards the request, against live answers; a refusal may be met once with another wording."""

    def problem(self, shape: Shape) -> str | None:
        """As `Strategy`."""
        if len(shape.turns) < 2:
            return "has one turn, and an escalation has several"
        if _asks(shape.turns[0], shape.request):
            return "asks in its first turn already: an escalation leads up to the request"
        if shape.after_refusal is not None and not _asks(shape.after_refusal, shape.request):
            return "has an 'after_refusal' that does not ask again"
        return None

    def next_turn(self, shape: Shape, used_templates: Sequence[str], declined: bool) -> str | None:
        """As `Strategy`."""
        requested = any(_asks(template, shape.request) for template in used_templates)
        rephrased = shape.after_refusal is not None and shape.after_refusal in used_templates
        if declined and requested and shape.after_refusal is not None and not rephrased:
            return shape.after_refusal
        place = len(used_templates) - rephrased
        return shape.turns[place] if place < len(shape.turns) else None


STRATEGIES: Mapping[str, Strategy] = MappingProxyType(
    {
        "direct": OneTurn(),
        "scenario_assumption": OneTurn(before=True),
        "contradictory_analysis": OneTurn(before=True),
        "command_embedding": OneTurn(before=True, after=True),
        "multi_turn_escalation": Escalation(),
    }
)
"""By the name that suites, tables and files give them, in the order in which tables show them."""


def placeholders(template: str) -> set[str]:
    """Names of a template's placeholders. Raises ValueError: the braces do not match."""
    return {name for _, name, _, _ in Formatter().parse(template) if name is not None}


def _asks(template: str, request: frozenset[str]) -> bool:
    return bool(placeholders(template) & request)


def _around(template: str, request: frozenset[str]) -> tuple[bool, bool]:
    """Whether words stand before the first and after the last placeholder of the request."""
    parts = list(Formatter().parse(template))
    places = [index for index, (_, name, _, _) in enumerate(parts) if name in request]
    if not places:
        return False, False
    is_other_slot = [name is not None and name not in request for _, name, _, _ in parts]
    before = any(_words(parts[i][0]) or (i < places[0] and is_other_slot[i]) for i in range(places[0] + 1))
    after = any(_words(parts[i][0]) or is_other_slot[i] for i in range(places[-1] + 1, len(parts)))
    return before, after


def _words(text: str) -> bool:
    return any(character.isalnum() for character in text)
