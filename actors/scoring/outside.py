"""The signals of one scorer actor that no model of the run scores: functions and foreign models, over one chunk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from actors.scoring.foreign_scorer import ForeignScorer
from actors.scoring.protocol import Conversation, Scored, ScorerFault
from actors.scoring.python_scorer import PythonOptions, PythonScorer
from actors.scoring.sources import ForeignModel, PythonSignal
from actors.scoring.text import ConversationReader, token_conversations
from configs.exits import SteelyardError
from learner.data.tokenizer import load_tokenizer
from learner.records import RolloutChunk


@dataclass(frozen=True)
class OutsideScores:
    """What they say of a chunk's rows."""

    scores: Mapping[str, np.ndarray]
    """By signal float32 ``[B]`` in the chunk's order; NaN where it is not known."""
    reasons: Mapping[str, str]
    """Request id without some score to why; of several signals all."""
    kinds: Mapping[str, Mapping[str, str]]
    """Request id to ``{signal: ScorerFault}``."""


class OutsideScorers:
    """Holds them, and the policy's tokenizer to read its samples with.

    Raises:
        SteelyardError: no tokenizer was given.
        ConfigError, DataError: a function, a folder or a tokenizer is not what it should be; the signal is named.
    """

    def __init__(
        self,
        signals: Mapping[str, PythonSignal | ForeignModel],
        tokenizer: Path | None,
        device: torch.device,
        tokens_per_batch: int,
    ) -> None:
        if tokenizer is None:
            raise SteelyardError(f"{', '.join(signals)}: a scorer that reads text needs the policy's tokenizer")
        self._tokenizer = load_tokenizer(tokenizer)
        self._scorers: dict[str, PythonScorer | ForeignScorer] = {}
        for name, source in signals.items():
            try:
                self._scorers[name] = _start(source, self._tokenizer, device, tokens_per_batch)
            except SteelyardError as error:
                raise type(error)(f"scorer of {name}: {error}") from error
        self._text = {name for name, scorer in self._scorers.items() if not _reads_tokens(scorer)}
        self._reader = ConversationReader(self._tokenizer) if self._text else None

    def score(self, chunk: RolloutChunk) -> OutsideScores:
        """Score all rows; a row without a score has its reason and kind."""
        readable = self._reader.read(chunk) if self._reader is not None else None
        plain = token_conversations(chunk, self._tokenizer) if self._text != set(self._scorers) else None
        row_of = {meta.request_id: row for row, meta in enumerate(chunk.meta)}
        scores: dict[str, np.ndarray] = {}
        reasons: dict[str, str] = {}
        kinds: dict[str, dict[str, str]] = {}
        for name, scorer in self._scorers.items():
            batch = readable if name in self._text else plain
            assert batch is not None
            conversations, unread = batch
            scored = scorer.score(conversations)
            scores[name] = _by_row(conversations, scored, row_of)
            for request in [*unread, *scored.faults]:
                kind = ScorerFault.UNREADABLE if request in unread else scored.kinds[request]
                reason = f"{kind}: {unread[request]}" if request in unread else scored.faults[request]
                kinds.setdefault(request, {})[name] = str(kind)
                reasons[request] = "; ".join(filter(None, [reasons.get(request), f"{name}: {reason}"]))
        return OutsideScores(scores, reasons, kinds)

    def close(self) -> None:
        """Let the functions' threads end."""
        for scorer in self._scorers.values():
            scorer.close()


def _start(
    source: PythonSignal | ForeignModel, tokenizer: PreTrainedTokenizerBase, device: torch.device, tokens_per_batch: int
) -> PythonScorer | ForeignScorer:
    if isinstance(source, ForeignModel):
        return ForeignScorer(source, tokenizer, device, tokens_per_batch)
    options = PythonOptions(source.arguments, source.batch_size, source.deadline_seconds, source.total_seconds)
    return PythonScorer.from_spec(source.function, options)


def _reads_tokens(scorer: PythonScorer | ForeignScorer) -> bool:
    return isinstance(scorer, ForeignScorer) and not scorer.needs_text


def _by_row(conversations: list[Conversation], scored: Scored, row_of: Mapping[str, int]) -> np.ndarray:
    values = np.full(len(row_of), np.nan, dtype=np.float32)
    for conversation, value in zip(conversations, scored.values, strict=True):
        values[row_of[conversation.request_id]] = value
    return values
