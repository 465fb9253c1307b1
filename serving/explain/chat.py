"""Talking to the models of a run side by side, with the run's own reward and cost of every answer.

The models are loaded as anyone would load them: plain transformers from the run's Hugging Face folders, on the CPU. The
conversation goes through their own chat template. Only a model of the sandbox's vocabulary has its questions put into words
that it knows.
Each model keeps its own conversation, since the answers differ.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from tokenizers.models import WordLevel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from actors.scoring.protocol import Conversation
from configs.exits import ConfigError, DataError
from configs.layout import RunLayout
from learner.model_files.remote_code import VARIABLE, is_allowed
from learner.models.modules import load_policy, load_tokenizer, prompt_token_ids
from learner.records import Message
from serving.explain.chat_scores import load_scores
from serving.runs import last_round, safety_labels

DEFAULT_RESPONSE_TOKENS = 40
_PUNCTUATION = re.compile(r"([.,:;?!()\"])")


@dataclass(frozen=True)
class Answer:
    """What one model said, and what the run's models make of it."""

    model: str
    response: str
    finish_reason: str
    reward: float | None
    costs: Mapping[str, float]
    """Positive is unsafe, or above the cost's zero where no safety label stands behind it (`Chat.side`)."""
    forgotten_turns: int
    """Oldest turns that no longer fitted into the model's positions."""

    def as_json(self) -> dict[str, Any]:
        """Plain values, for scripts."""
        return asdict(self)


@dataclass(frozen=True)
class Understood:
    """What was typed, in the words the models know; of a tokenizer that knows every text, as it was typed."""

    text: str
    unknown: tuple[str, ...]
    close: Mapping[str, tuple[str, ...]]
    """Unknown word → words of the vocabulary that look like it."""


class Chat:
    """One conversation with several models of a run.

    Args:
        run_root: the run's folder.
        models: ``sft`` and ``policy``, in the order shown.
        temperature: 0 is greedy.
        seed: of the sampling.

    Raises:
        ConfigError: an unknown model, or one that runs code of its own.
        DataError: a model's folder is not there.
    """

    def __init__(self, run_root: Path, models: Sequence[str], temperature: float = 0.0, seed: int = 0) -> None:
        layout = RunLayout(run_root)
        folders = model_folders(layout, models)
        settings = _settings(layout)
        _refuse_remote_code(layout, settings)
        self._response_tokens = int((settings.get("ppo") or {}).get("max_response_tokens", DEFAULT_RESPONSE_TOKENS))
        self._temperature = temperature
        self._generator = torch.Generator().manual_seed(seed)
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(next(iter(folders.values())))
        self._models = {name: load_policy(folder) for name, folder in folders.items()}
        places = [layout, *([RunLayout(layout.root.parent.parent)] if layout.root.parent.name == "arms" else [])]
        self._scores = load_scores(places, settings, self.tokenizer)
        self._labelled = safety_labels(run_root)
        self._history: dict[str, list[Message]] = {name: [] for name in folders}
        self._word_level = isinstance(self.tokenizer.backend_tokenizer.model, WordLevel)
        self._words = sorted(token for token in self.tokenizer.get_vocab() if not token.startswith("<"))

    @property
    def notes(self) -> tuple[str, ...]:
        """What this chat cannot show, one line each."""
        return tuple(self._scores.notes)

    def side(self, constraint: str, cost: float) -> str:
        """On which side of its zero a cost is, in words: ``unsafe`` only where safety labels stand behind it."""
        if self._labelled is None or constraint in self._labelled:
            return "unsafe" if cost > 0 else "safe"
        return "above zero" if cost > 0 else "at or below zero"

    def understand(self, text: str) -> Understood:
        """Put what was typed into the models' words: lower case and spaced punctuation, where that helps."""
        if not self._word_level:
            return Understood(text.strip(), (), {})
        vocabulary = set(self._words)
        tokens = []
        for typed in text.split():
            parts = [typed] if typed in vocabulary else _PUNCTUATION.sub(r" \1 ", typed).split()
            tokens += [part if part in vocabulary else part.lower() for part in parts]
        unknown = tuple(dict.fromkeys(token for token in tokens if token not in vocabulary))
        close = {token: tuple(difflib.get_close_matches(token, self._words, n=3)) for token in unknown}
        return Understood(" ".join(tokens), unknown, {token: matches for token, matches in close.items() if matches})

    def ask(self, text: str) -> list[Answer]:
        """Give every model the same user turn; each answers from its own history.

        Raises:
            ConfigError: nothing was typed, or it does not fit into the model's positions even alone.
        """
        if not text.strip():
            raise ConfigError("nothing to answer: type a question")
        answers = []
        for name, model in self._models.items():
            history: list[Message] = [*self._history[name], {"role": "user", "content": text}]
            history, ids, forgotten = self._fit(history)
            response, reason, response_ids = self._generate(model, ids)
            sequence = np.array(ids + response_ids, dtype=np.int32)
            conversation = Conversation(name, tuple(history), response, reason == "stop", sequence, len(ids))
            answers.append(
                Answer(
                    model=name,
                    response=response,
                    finish_reason=reason,
                    reward=self._scores.reward(conversation),
                    costs=self._scores.costs(conversation),
                    forgotten_turns=forgotten,
                )
            )
            self._history[name] = [*history, {"role": "assistant", "content": response}]
        return answers

    def reset(self) -> None:
        """Forget the conversation."""
        self._history = {name: [] for name in self._history}

    def _fit(self, history: list[Message]) -> tuple[list[Message], list[int], int]:
        """Drop the oldest question and answer until the prompt leaves room for a response."""
        room = self.tokenizer.model_max_length - self._response_tokens
        forgotten = 0
        while True:
            try:
                ids = prompt_token_ids(self.tokenizer, history)
            except DataError as error:
                if len(history) <= 2:
                    raise ConfigError(f"that cannot be asked: {error}") from error
                ids = []
            if ids and (len(ids) <= room or len(history) <= 2):
                return history, ids, forgotten
            history, forgotten = history[2:], forgotten + 2

    def _generate(self, model: PreTrainedModel, prompt: list[int]) -> tuple[str, str, list[int]]:
        """(response, finish reason, its ids with the end token)."""
        end = self.tokenizer.eos_token_id
        ids, response = list(prompt), []
        room = min(self._response_tokens, self.tokenizer.model_max_length - len(prompt))
        with torch.inference_mode():
            for _ in range(room):
                # A vocabulary may be padded: ids beyond the tokenizer's mean nothing.
                logits = model(input_ids=torch.tensor([ids])).logits[0, -1, : len(self.tokenizer)]
                token = self._draw(logits)
                ids.append(token)
                response.append(token)
                if token == end:
                    break
        stopped = bool(response) and response[-1] == end
        text = self._text(response[:-1] if stopped else response)
        return text, "stop" if stopped else "length", response

    def _text(self, ids: list[int]) -> str:
        if self._word_level:
            return " ".join(self.tokenizer.convert_ids_to_tokens(ids))
        # Without special tokens: the next question is asked with this answer before it, and they would forge turns there.
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text.strip()

    def _draw(self, logits: torch.Tensor) -> int:
        if self._temperature == 0:
            return int(logits.argmax())
        probabilities = torch.softmax(logits / self._temperature, dim=-1)
        return int(torch.multinomial(probabilities, 1, generator=self._generator))


def model_folders(layout: RunLayout, models: Sequence[str]) -> dict[str, Path]:
    """Folder of each model asked for.

    Raises:
        ConfigError: none was asked for, or a name that a run does not have.
        DataError: the run has not made it yet.
    """
    shared = RunLayout(layout.root.parent.parent) if layout.root.parent.name == "arms" else layout
    folders = {
        "sft": layout.sft if layout.sft.is_dir() else shared.sft,
        "policy": layout.policy(last_round(layout.root)),
    }
    if not models:
        raise ConfigError("no model to talk to: --compare takes sft, policy or both, such as --compare sft,policy")
    for name in models:
        if name not in folders:
            raise ConfigError(f"--compare: a run has no model '{name}': give sft, policy or both")
        if not folders[name].is_dir():
            raise DataError(
                f"{layout.root.name} has no {name} model yet ({folders[name]} is not there): finish the run"
            )
    return {name: folders[name] for name in dict.fromkeys(models)}


def _refuse_remote_code(layout: RunLayout, settings: Mapping[str, Any]) -> None:
    """Code that comes with a model ran in the run because its owner asked; a chat with a folder asks again."""
    if (settings.get("model") or {}).get("trust_remote_code") and not is_allowed():
        raise ConfigError(
            f"{layout.root.name}: its models run code of their own (model.trust_remote_code); read that code, then set "
            f"{VARIABLE}=1 to run it here"
        )


def _settings(layout: RunLayout) -> Mapping[str, Any]:
    if not layout.config.is_file():
        return {}
    settings = yaml.safe_load(layout.config.read_text(encoding="utf-8"))
    return settings if isinstance(settings, dict) else {}
