"""What a run's reward and cost signals say of an answer in a chat: its own models, and foreign ones with their tokenizers.

A Python function is not called here: it belongs to a run's workers, and a chat does not start code that a folder names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from actors.scoring.foreign_scorer import ForeignScorer
from actors.scoring.protocol import Conversation
from actors.scoring.sources import ForeignModel
from configs.layout import RunLayout
from learner.models.score_models.folders import WholeScoreModel, load_whole_score_model
from serving.runs import last_round

REWARD = "reward"
TOKENS_PER_BATCH = 4096

Scorer = WholeScoreModel | ForeignScorer


@dataclass
class ChatScores:
    """The signals that can be asked, by name: ``reward`` and ``cost/<constraint>``."""

    scorers: dict[str, Scorer] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """Of signals that cannot be asked, one line each."""

    def reward(self, conversation: Conversation) -> float | None:
        """None where there is no reward to be had."""
        return self._score(REWARD, conversation)

    def costs(self, conversation: Conversation) -> dict[str, float]:
        """By constraint, those that could be scored."""
        scores = {name: self._score(name, conversation) for name in self.scorers if name != REWARD}
        return {name.removeprefix("cost/"): value for name, value in scores.items() if value is not None}

    def _score(self, name: str, conversation: Conversation) -> float | None:
        scorer = self.scorers.get(name)
        if scorer is None:
            return None
        if isinstance(scorer, ForeignScorer):
            value = float(scorer.score([conversation]).values[0])
            return value if np.isfinite(value) else None
        ids = torch.from_numpy(conversation.token_ids.astype(np.int64))[None]
        scores, _ = scorer.score(ids, torch.tensor([ids.shape[1]]))
        return float(scores[0])


def load_scores(
    places: Sequence[RunLayout], settings: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase
) -> ChatScores:
    """Every signal of a run whose model is there.

    Args:
        places: where to look, in this order: an arm may share its run's models.
        settings: the resolved configuration.
        tokenizer: the policy's.

    Raises:
        ConfigError, DataError: a folder does not hold what it should.
    """
    scores = ChatScores()
    constraints = settings.get("constraints") or {}
    scorer_settings = {REWARD: (settings.get("objective") or {}).get("scorer")}
    scorer_settings |= {f"cost/{name}": (constraint or {}).get("scorer") for name, constraint in constraints.items()}
    for signal, scorer in scorer_settings.items():
        if scorer is not None and scorer.get("python"):
            scores.notes.append(
                f"{signal} comes from a Python function ({scorer['python']}), which a chat does not call"
            )
            continue
        folder = _folder(places, signal, foreign=scorer is not None)
        if folder is None:
            continue
        if scorer is None:
            scores.scorers[signal] = load_whole_score_model(folder)
        else:
            source = ForeignModel(folder, scorer.get("template"))
            scores.scorers[signal] = ForeignScorer(source, tokenizer, torch.device("cpu"), TOKENS_PER_BATCH)
    return scores


def _folder(places: Sequence[RunLayout], signal: str, *, foreign: bool) -> Path | None:
    for place in places:
        number = last_round(place.root)
        trained = place.reward(number) if signal == REWARD else place.cost(number, signal.removeprefix("cost/"))
        folder = (
            place.data / "scorers" / signal.replace("/", "-") if foreign else trained
        )  # as stage `scales` leaves it
        if (folder / "config.json").is_file():
            return folder
    return None
