"""Conversations: HH-RLHF transcripts into turns and back, and the checks that every prompt and response gets."""

from __future__ import annotations

import re
from collections.abc import Sequence

from learner.data.fields import Notes, RowError
from learner.data.records import Message

Turn = tuple[str, str]
"""Role and text."""
ROLES = ("system", "user", "assistant")
_MARKER = re.compile(r"(?:\A\n*|\n\n)(Human|Assistant):(?: |(?=\n)|\Z)")
"""Where a turn of a transcript begins; an answer without text may have lost the space after its marker."""
_ROLE_WORD = re.compile(r"(?<!\w)(Human|HUMAN|USER|Assistant|ASSISTANT)\s?:")
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}
_HH_WORDS = {role: word for word, role in _HH_ROLES.items()}


def split_transcript(text: str, field: str) -> list[Turn]:
    """The turns of an HH-RLHF transcript as they are written; ends with an assistant turn.

    Raises:
        RowError: text before the first marker, no marker, or no answer at the end.
    """
    parts = _MARKER.split(text)
    if parts[0].strip() or len(parts) == 1:
        raise RowError("broken_order", f"'{field}' does not begin with the marker 'Human: '")
    turns = [(_HH_ROLES[parts[at]], parts[at + 1]) for at in range(1, len(parts), 2)]
    if turns[-1][0] != "assistant":
        raise RowError("broken_order", f"'{field}' ends with a user turn: it has no answer")
    return turns


def transcript_of(prompt: Sequence[Message], response: str) -> str:
    """The HH-RLHF transcript of a conversation.

    Raises:
        RowError: a system turn, or a text that would be read back as two turns.
    """
    text = ""
    for message in (*prompt, {"role": "assistant", "content": response}):
        if message["role"] not in _HH_WORDS:
            raise RowError("not_expressible", f"a transcript has no place for a turn of role '{message['role']}'")
        if _MARKER.search(f"\n\n.{message['content']}"):
            raise RowError("not_expressible", "a turn holds a transcript's marker and would be read back as two")
        text += f"\n\n{_HH_WORDS[message['role']]}: {message['content']}"
    return text


def merged(turns: Sequence[Turn], notes: Notes) -> list[Turn]:
    """Turns without leading space, those of one role in a row joined with a blank line; both are noted."""
    joined: list[Turn] = []
    for number, (role, text) in enumerate(turns, 1):
        stripped = text.lstrip()
        if stripped and stripped != text:
            notes.add("leading_space", f"turn {number} ({role}) begins with a space")
        if joined and joined[-1][0] == role:
            notes.add("repeated_role", f"turns {number - 1} and {number} are both of role '{role}'")
            pieces = [piece for piece in (joined[-1][1], stripped) if piece.strip()]
            joined[-1] = (role, "\n\n".join(pieces))
        else:
            joined.append((role, stripped))
    return joined


def note_role_words(turns: Sequence[Turn], notes: Notes) -> None:
    """Note an assistant turn that holds a role's marker; earlier turns count, for they are answers too."""
    for number, (role, text) in enumerate(turns, 1):
        if role == "assistant" and (match := _ROLE_WORD.search(text)):
            place = "the answer" if number == len(turns) else f"turn {number} (assistant)"
            notes.add("role_word_in_answer", f"{place} holds '{match.group()}'")
            return


def checked_prompt(turns: Sequence[Turn], notes: Notes) -> tuple[Message, ...]:
    """A prompt of merged turns, checked: maybe a system turn, then user and assistant by turns, a user turn at the end.

    Raises:
        RowError: roles in another order, or a turn without text.
    """
    if not turns:
        raise RowError("empty_prompt", "the prompt has no turn")
    clean = merged(turns, notes)
    for number, (role, text) in enumerate(clean, 1):
        if not text.strip():
            raise RowError("empty_prompt", f"turn {number} ({role}) of the prompt has no text")
    talk = clean[1:] if clean[0][0] == "system" else clean
    alternating = [("user", "assistant")[index % 2] for index in range(len(talk))]
    if [role for role, _text in talk] != alternating:
        role_order = ", ".join(role for role, _text in clean[:8])
        raise RowError("broken_order", f"user and assistant do not take turns from a user turn on ({role_order})")
    if len(talk) % 2 == 0:
        raise RowError("broken_order", "the prompt does not end with a user turn")
    return tuple({"role": role, "content": text} for role, text in clean)


def checked_response(text: str, notes: Notes) -> str:
    """A response without leading space; both that and a role's marker are noted. It may be empty."""
    stripped = text.lstrip()
    if stripped and stripped != text:
        notes.add("leading_space", "a response begins with a space")
    note_role_words([("assistant", stripped)], notes)
    return stripped
