"""From a suite to attacks: one form, its fillers, and what is put around the turn that asks.

Invariant: whatever is chosen, the request's own words stay whole, so what a right answer would reveal is known.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from actors.redteam.strategies import STRATEGIES, placeholders
from actors.redteam.suite import AttackForm, Suite
from actors.redteam.targets import Target

FORM, PREFIX, SUFFIX = "form", "prefix", "suffix"
Choice = Mapping[str, int]
"""Factor → which of its options; a factor that is not named takes its first."""


@dataclass(frozen=True)
class Attack:
    """One way to ask one target."""

    id: str
    """``<target>/<form>``, and after another ``/`` the choices that are not the first."""
    form: AttackForm
    target: Target
    values: Mapping[str, str]
    """Every placeholder's text."""
    prefix: str = ""
    suffix: str = ""
    choice: tuple[tuple[str, int], ...] = ()
    """What was drawn, in the grammar's order, the form included."""

    def next_text(self, used_templates: Sequence[str], declined: bool) -> tuple[str, str] | None:
        """(template, text) of the attacker's next turn after the templates used so far; None ends the conversation."""
        shape = self.form.shape
        template = STRATEGIES[self.form.strategy].next_turn(shape, used_templates, declined)
        if template is None:
            return None
        text = template.format(**self.values)
        if self.asks(template):
            text = " ".join(part for part in (self.prefix, text, self.suffix) if part)
        return template, text

    def asks(self, template: str) -> bool:
        """Whether a turn holds the request."""
        return bool(placeholders(template) & self.form.shape.request)


class Grammar:
    """Everything a suite can say about a target, as independent factors with numbered options."""

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self.factors: dict[str, int] = {
            FORM: len(suite.forms),
            PREFIX: len(suite.prefixes),
            SUFFIX: len(suite.suffixes),
            **{slot: len(texts) for slot, texts in suite.fillers.items()},
        }
        """Factor → number of options."""

    def active(self, form: AttackForm) -> tuple[str, ...]:
        """The factors that change what this form says."""
        return (FORM, PREFIX, SUFFIX, *form.needs)

    def attack(self, target: Target, choice: Choice) -> Attack:
        """The attack that these options make."""
        form = self.suite.forms[choice.get(FORM, 0)]
        used = {factor: choice.get(factor, 0) for factor in self.active(form)}
        values = {**target.values, **{slot: self.suite.fillers[slot][used[slot]] for slot in form.needs}}
        extra = "-".join(f"{factor}{option}" for factor, option in used.items() if factor != FORM and option)
        return Attack(
            id=f"{target.id}/{form.id}" + (f"/{extra}" if extra else ""),
            form=form,
            target=target,
            values=values,
            prefix=self.suite.prefixes[used[PREFIX]],
            suffix=self.suite.suffixes[used[SUFFIX]],
            choice=tuple(used.items()),
        )

    def plain(self, targets: Sequence[Target]) -> list[Attack]:
        """Every form on every target with first fillers and nothing around: the suite as it is written."""
        return [self.attack(target, {FORM: index}) for target in targets for index in range(len(self.suite.forms))]

    def draw(self, target: Target, n: int, rng: random.Random) -> list[Attack]:
        """Up to `n` different attacks on one target, uniform over forms and over each form's options."""
        attacks: dict[str, Attack] = {}
        for _ in range(20 * n):  # a small grammar runs out of different attacks; then there are fewer
            if len(attacks) == n:
                break
            attack = self.attack(target, {factor: rng.randrange(size) for factor, size in self.factors.items()})
            attacks.setdefault(attack.id, attack)
        return list(attacks.values())
