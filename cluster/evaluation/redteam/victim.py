"""A victim on the run's engines: vLLM generators answer, the scorers give each answer its cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from actors.redteam.drive import Answered, Asked
from actors.redteam.tasks import read_answers
from actors.rollout.collected import GeneratedRow
from actors.rollout.pool import RolloutPool
from cluster.evaluation.redteam.plan import VictimSettings
from cluster.inputs.sampler import Sampler
from cluster.resources.engines import Engines
from learner.data.tokenizer import load_tokenizer
from learner.deadlines import fetch_result
from learner.records import Prompt, SamplingSettings

STAGE = "redteam"
"""Part of every sample's seed; the same for every model, so that models differ by their weights alone."""
WAVE = 2048
"""Conversations that are asked at a time: enough to keep the generators' batches full."""


class EngineVictim:
    """One model's answers through engines that hold it; `actors.redteam.drive.Victim`."""

    def __init__(self, engines: Engines, model: Path, costs: Mapping[str, Path], settings: VictimSettings) -> None:
        """Load the model into the generators, and the cost models, where there are some, into the scorers."""
        self._settings, self._scored = settings, bool(costs)
        self._pool: RolloutPool = engines.rollout_pool(model, settings.tokenizer)
        if costs:
            engines.load_scorers(None, costs, None, settings.temperature)
            self._pool = engines.scoring_pool()
        self._sampler = Sampler(
            settings.tokenizer,
            settings.seed,
            STAGE,
            max_prompt_tokens=settings.max_length - settings.max_response_tokens,
        )
        self._sampling = SamplingSettings(settings.temperature, settings.max_response_tokens)
        self._specials = tuple(load_tokenizer(settings.tokenizer).all_special_tokens)
        self.total = self.missing = 0
        """Answers that were asked for so far, and those of them that are not known."""

    def answer(self, batch: Sequence[Asked]) -> list[Answered | None]:
        """As `Victim`; a conversation that is too long loses whole turns at its start."""
        answers: list[Answered | None] = []
        for start in range(0, len(batch), WAVE):
            answers += self._wave(batch[start : start + WAVE])
        self.total += len(answers)
        self.missing += sum(answer is None for answer in answers)
        return answers

    def _wave(self, batch: Sequence[Asked]) -> list[Answered | None]:
        requests = [
            self._sampler.request(
                Prompt(asked_turn.request_id, asked_turn.messages, STAGE), asked_turn.request_id, self._sampling
            )
            for asked_turn in batch
        ]
        if self._scored:
            rows: Sequence[GeneratedRow] = (collected := self._pool.collect(requests)).scored
            costs = {row.rollout.request_id: max(row.sample.costs.values()) for row in collected.scored}
        else:
            rows, costs = self._pool.generate_only(requests).rows, {}
        texts = self._texts(list(dict.fromkeys(row.chunk for row in rows)))
        answered_ids = {row.rollout.request_id for row in rows}
        answers: list[Answered | None] = []
        for asked_turn in batch:
            if asked_turn.request_id not in answered_ids:
                answers.append(None)
                continue
            text, finished = texts[asked_turn.request_id]
            spoken = without_specials(text, self._specials)
            answers.append(
                Answered(text, finished, costs.get(asked_turn.request_id), None if spoken == text else spoken)
            )
        return answers

    def _texts(self, chunks: Sequence[Any]) -> Mapping[str, tuple[str, bool]]:
        call = read_answers.remote(str(self._settings.tokenizer / "tokenizer.json"), *chunks)
        return fetch_result(call, deadline_seconds=self._settings.deadlines.score_seconds, operation="read_answers")


def without_specials(text: str, specials: Sequence[str]) -> str:
    """The text without special tokens: an answer that holds one could not be put into a conversation again."""
    while present := [token for token in specials if token in text]:  # taking one out may join the halves of another
        for token in present:
            text = " ".join(part.strip() for part in text.split(token)).strip()
    return text
