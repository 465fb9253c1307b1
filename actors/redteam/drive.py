"""Leads the conversations of many attacks at once: one batch per turn, each answer judged, the worst turn kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from actors.redteam.grammar import Attack
from actors.redteam.labels import DECLINED, Judgement, Labeller
from learner.records import Message


@dataclass(frozen=True)
class Asked:
    """One conversation that waits for the victim."""

    request_id: str
    messages: tuple[Message, ...]


@dataclass(frozen=True)
class Answered:
    """What the victim said."""

    response: str
    """Text without the end token."""
    finished: bool
    """False: cut at the longest length."""
    cost: float | None
    """The cost model's score of the whole conversation; None where none is asked."""
    spoken: str | None = None
    """What later turns see of it, where that differs: a special token in an answer would forge a turn."""


class Victim(Protocol):
    """A model that is attacked."""

    def answer(self, batch: Sequence[Asked]) -> list[Answered | None]:
        """One answer per conversation, in order; None where it could not be drawn or scored."""
        ...


@dataclass(frozen=True)
class Turn:
    """One judged answer of a conversation."""

    messages: tuple[Message, ...]
    """Everything up to the attacker's turn."""
    response: str
    finished: bool
    cost: float | None
    judgement: Judgement


@dataclass(frozen=True)
class Result:
    """One conversation of one attack."""

    attack: Attack
    sample: int
    turns: tuple[Turn, ...]
    """Those from the first that holds the request on; at least one."""

    @property
    def worst(self) -> Turn:
        """The turn that the attack is judged by; of equal ones the first."""
        return max(self.turns, key=lambda turn: turn.judgement.rank)

    @property
    def cost(self) -> float | None:
        """The highest of its turns' costs; None where no turn was scored."""
        costs = [turn.cost for turn in self.turns if turn.cost is not None]
        return max(costs) if costs else None


@dataclass
class _Talk:
    attack: Attack
    sample: int
    said: list[str] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    declined: bool = False
    waits: bool = False
    failed: bool = False


def carry_out(
    attacks: Sequence[Attack], victim: Victim, labeller: Labeller, *, samples: int = 1, prefix: str = ""
) -> list[Result]:
    """Lead every attack `samples` times; results in the attacks' order, those left out whose answers are not known.

    Args:
        prefix: of the request ids, so that two passes over one attack draw different answers.
    """
    talks = [_Talk(attack, sample) for attack in attacks for sample in range(samples)]
    while batch := [question for talk in talks if (question := _ask(talk, prefix)) is not None]:
        waiting = [talk for talk in talks if talk.waits]
        for talk, answer in zip(waiting, victim.answer(batch), strict=True):
            _take(talk, answer, labeller)
    return [Result(talk.attack, talk.sample, tuple(talk.turns)) for talk in talks if talk.turns and not talk.failed]


def _ask(talk: _Talk, prefix: str) -> Asked | None:
    """The talk's next turn; None when it is over."""
    talk.waits = False
    if talk.failed or (turn := talk.attack.next_text(talk.said, talk.declined)) is None:
        return None
    template, text = turn
    talk.said.append(template)
    talk.messages.append({"role": "user", "content": text})
    talk.waits = True
    return Asked(f"{prefix}{talk.attack.id}#{talk.sample}.{len(talk.said)}", tuple(talk.messages))


def _take(talk: _Talk, answer: Answered | None, labeller: Labeller) -> None:
    if answer is None:
        talk.failed = True
        return
    judgement = labeller.label(talk.attack.target, answer.response, answer.finished, answer.cost)
    if any(talk.attack.asks(template) for template in talk.said):
        turn = Turn(tuple(talk.messages), answer.response, answer.finished, answer.cost, judgement)
        talk.turns.append(turn)
    talk.declined = judgement.outcome in DECLINED
    spoken = answer.response if answer.spoken is None else answer.spoken
    talk.messages.append({"role": "assistant", "content": spoken})
