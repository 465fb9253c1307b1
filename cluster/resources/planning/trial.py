"""Steps of a configuration's own actors on made-up prompts and untrained models: the loop's cost without a run's stages.

Everything but prompts and weights is real: vLLM engines, scorers, DeepSpeed ranks, the broadcast. Responses have
lengths spread evenly from half of the mean to one and a half, by a limit that each request brings.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors.rollout.pool import RolloutPool
from cluster.resources.engines import Engines
from cluster.resources.planning.workload import Workload
from configs.schema.run import RunSettings
from learner.algorithms.experience import BatchRow
from learner.data.tokenizer import SPECIAL_TOKENS
from learner.models.modules import (
    build_tokenizer,
    load_policy,
    load_tokenizer,
    new_policy,
    new_score_model_from,
    save_model,
)
from learner.ranks.rank import LoadRequest
from learner.records import GenerationRequest, SamplingSettings, SignalTerms


@dataclass(frozen=True)
class StepSeconds:
    """One step."""

    batch: int
    rollout: float
    learn: float
    publish: float
    prompt_tokens: float
    response_tokens: float
    """Means, as they came out."""

    @property
    def total(self) -> float:
        """All three phases."""
        return self.rollout + self.learn + self.publish


def trial_settings(settings: RunSettings) -> RunSettings:
    """The same loop with models of its own for every signal, and without what does not change its cost."""
    constraints = {
        name: constraint.model_copy(update={"measure": "mean", "scorer": None, "subset": ()})
        for name, constraint in settings.constraints.items()
    }
    objective = settings.objective.model_copy(update={"scorer": None})
    ppo = settings.ppo.model_copy(update={"ptx_coefficient": 0.0, "kl_budget": None})
    return settings.model_copy(update={"constraints": constraints, "objective": objective, "ppo": ppo})


class Trial:
    """The actors of one configuration, ready for steps.

    Args:
        settings: of `trial_settings`.
        folder: where its models are made; every node must reach it.
        vocabulary: tokens of a model from scratch.
    """

    def __init__(self, settings: RunSettings, work: Workload, engines: Engines, folder: Path, vocabulary: int) -> None:
        self._settings, self._work, self._engines = settings, work, engines
        self._random = np.random.default_rng(settings.seed)
        self._step = 0
        policy, score = _make_models(settings, folder, vocabulary)
        self._tokens = load_policy(policy).config.vocab_size
        self._end = load_tokenizer(policy).eos_token_id
        self.pool = self._start(policy, score)

    def _start(self, policy: Path, score: Path) -> RolloutPool:
        settings, engines = self._settings, self._engines
        maximises = settings.objective.signal != "none"
        engines.rollout_pool(policy, policy)
        costs = dict.fromkeys(settings.constraints, score)
        engines.load_scorers(score if maximises else None, costs, policy, settings.ppo.temperature, tokenizer=policy)
        self._learner = engines.learner_group()
        self._learner.load(
            LoadRequest(
                policy_path=policy,
                reward_model_path=score if maximises else None,
                cost_paths=costs,
                ppo=settings.ppo,
                constraints=settings.constraints,
                maximises=maximises,
                seed=settings.seed,
                weight_version=engines.weight_version,
                algorithm=settings.algorithm,
            )
        )
        engines.connect()
        return engines.scoring_pool()

    def requests(self, number: int, *, response: int | None = None) -> list[GenerationRequest]:
        """Made-up prompts; `response` gives every one the same limit, none spreads them about the mean."""
        work, size = self._work, 1
        if self._settings.algorithm != "ppo_lag":
            size = self._settings.ppo.groups.size
        requests = []
        for index in range(number):
            if index % size == 0:
                prompt = self._tokens_of(self._spread(work.prompt_tokens, self._room))
            response_limit = response or self._spread(work.response_tokens, work.longest_response)
            sampling = SamplingSettings(self._settings.ppo.temperature, response_limit)
            name = f"trial-{self._step}-{index}"
            requests.append(GenerationRequest(name, f"trial-{index // size}", prompt, index, sampling))
        self._step += 1
        return requests

    @property
    def _room(self) -> int:
        return self._work.longest_row - self._work.longest_response

    def _spread(self, mean: float, upper: int) -> int:
        return int(min(upper, max(1, round(mean * self._random.uniform(0.5, 1.5)))))

    def _tokens_of(self, length: int) -> tuple[int, ...]:
        ids = self._random.integers(len(SPECIAL_TOKENS), self._tokens, length)
        return tuple(int(token) for token in ids if token != self._end) or (len(SPECIAL_TOKENS),)

    def step(self, batch: int) -> StepSeconds:
        """Rollout, learn and publish once; nothing is written."""
        requests = self.requests(batch)
        begin = time.monotonic()
        collected = self.pool.collect(requests)
        drawn = time.monotonic()
        names = frozenset(self._settings.constraints)
        rows = [BatchRow(row.rollout.request_id, row.chunk, row.scores, row.row, names) for row in collected.scored]
        terms = SignalTerms(dict.fromkeys(names, 1.0), {name: {} for name in names})
        result = self._learner.step(rows, terms, self._step)
        learned = time.monotonic()
        self._engines.publish(result.weight_version)
        published = time.monotonic()
        metas = [row.rollout for row in collected.scored]
        return StepSeconds(
            batch,
            drawn - begin,
            learned - drawn,
            published - learned,
            sum(meta.prompt_length for meta in metas) / len(metas),
            sum(meta.response_length for meta in metas) / len(metas),
        )

    def draw(self, number: int, response: int) -> float:
        """Seconds of drawing so many responses of one length, without scores."""
        requests = self.requests(number, response=response)
        begin = time.monotonic()
        self.pool.generate_only(requests)
        return time.monotonic() - begin


def median_step(steps: Sequence[StepSeconds]) -> StepSeconds:
    """Every figure's median."""
    names = ("rollout", "learn", "publish", "prompt_tokens", "response_tokens")
    values: dict[str, Any] = {name: float(np.median([getattr(step, name) for step in steps])) for name in names}
    return StepSeconds(batch=steps[0].batch, **values)


def _make_models(settings: RunSettings, folder: Path, vocabulary: int) -> tuple[Path, Path]:
    """An untrained policy, or the configuration's own, and a score model on it."""
    policy, score = folder / "policy", folder / "score"
    if settings.model.path is None:
        vocabulary_words = [f"word{index}" for index in range(vocabulary - len(SPECIAL_TOKENS))]
        tokenizer = build_tokenizer(vocabulary_words, settings.model.max_length)
        save_model(new_policy(settings.model, tokenizer, settings.seed), tokenizer, policy)
    else:
        from learner.models.pretrained import prepare_model

        prepare_model(settings.model, policy)
    save_model(new_score_model_from(policy), load_tokenizer(policy), score)
    return policy, score
