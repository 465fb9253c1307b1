"""Talking to the models of a run side by side, with the run's own reward and cost of every answer.

The models are loaded as anyone would load them: plain transformers from the run's Hugging Face folders, on the CPU.
Each model keeps its own conversation, since the answers differ.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from configs.exits import ConfigError, DataError
from configs.layout import RunLayout
from learner.models import load_policy, load_score_model, load_tokenizer, prompt_token_ids
from learner.records import Message

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
    """Raw; positive is unsafe."""
    forgotten_turns: int
    """Oldest turns that no longer fitted into the model's positions."""

    def as_json(self) -> dict[str, Any]:
        """Plain values, for scripts."""
        return asdict(self)


@dataclass(frozen=True)
class Understood:
    """What was typed, in the words the models know."""

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
        ConfigError: an unknown model.
        DataError: a model's folder is not there.
    """

    def __init__(self, run_root: Path, models: Sequence[str], temperature: float = 0.0, seed: int = 0) -> None:
        layout = RunLayout(run_root)
        folders = model_folders(layout, models)
        settings = _settings(layout)
        self._response_tokens = int((settings.get("ppo") or {}).get("max_response_tokens", DEFAULT_RESPONSE_TOKENS))
        self._temperature = temperature
        self._generator = torch.Generator().manual_seed(seed)
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(next(iter(folders.values())))
        self._models = {name: load_policy(folder) for name, folder in folders.items()}
        self._reward, self._costs = _score_models(layout, settings)
        self._history: dict[str, list[Message]] = {name: [] for name in folders}
        self._words = sorted(word for word in self.tokenizer.get_vocab() if not word.startswith("<"))

    def understand(self, text: str) -> Understood:
        """Put what was typed into the models' words: lower case and spaced punctuation, where that helps."""
        known = set(self._words)
        words = []
        for word in text.split():
            parts = [word] if word in known else _PUNCTUATION.sub(r" \1 ", word).split()
            words += [part if part in known else part.lower() for part in parts]
        unknown = tuple(dict.fromkeys(word for word in words if word not in known))
        close = {word: tuple(difflib.get_close_matches(word, self._words, n=3)) for word in unknown}
        return Understood(" ".join(words), unknown, {word: found for word, found in close.items() if found})

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
            sequence = ids + response_ids
            answers.append(
                Answer(
                    model=name,
                    response=response,
                    finish_reason=reason,
                    reward=None if self._reward is None else _score(self._reward, sequence),
                    costs={constraint: _score(each, sequence) for constraint, each in self._costs.items()},
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
                logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
                token = self._draw(logits)
                ids.append(token)
                response.append(token)
                if token == end:
                    break
        stopped = bool(response) and response[-1] == end
        text = " ".join(self.tokenizer.convert_ids_to_tokens(response[:-1] if stopped else response))
        return text, "stop" if stopped else "length", response

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
    folders = {"sft": layout.sft if layout.sft.is_dir() else shared.sft, "policy": layout.policy(1)}
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


def _score_models(
    layout: RunLayout, settings: Mapping[str, Any]
) -> tuple[PreTrainedModel | None, dict[str, PreTrainedModel]]:
    """The run's reward and cost models, those that are there; an arm may share its run's."""
    places = [layout, *([RunLayout(layout.root.parent.parent)] if layout.root.parent.name == "arms" else [])]
    reward = next((place.reward(1) for place in places if (place.reward(1) / "config.json").is_file()), None)
    costs: dict[str, PreTrainedModel] = {}
    for constraint in settings.get("constraints") or {}:
        folder = next(
            (p.cost(1, constraint) for p in places if (p.cost(1, constraint) / "config.json").is_file()), None
        )
        if folder is not None:
            costs[constraint] = load_score_model(folder)
    return None if reward is None else load_score_model(reward), costs


def _settings(layout: RunLayout) -> Mapping[str, Any]:
    if not layout.config.is_file():
        return {}
    settings = yaml.safe_load(layout.config.read_text(encoding="utf-8"))
    return settings if isinstance(settings, dict) else {}


def _score(model: PreTrainedModel, ids: list[int]) -> float:
    """Score of a whole sequence, read at its last token."""
    with torch.inference_mode():
        return float(model(input_ids=torch.tensor([ids])).logits[0, 0])
