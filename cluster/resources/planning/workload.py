"""What one step of a run has to do: how many samples of how many tokens, and through which models."""

from __future__ import annotations

from dataclasses import dataclass

from configs.exits import ConfigError
from configs.schema.run import GROUP_ALGORITHMS, LOOP_ALGORITHMS, RunSettings

USUAL_RESPONSE = 0.5
"""Share of `ppo.max_response_tokens` that a response has on average, where it is not set."""


@dataclass(frozen=True)
class Workload:
    """One optimiser step. Tokens are means per sample unless they say otherwise."""

    batch: int
    minibatches: int
    """Gradient updates of one step, over all epochs."""
    epochs: int
    prompt_tokens: float
    response_tokens: float
    longest_response: int
    longest_row: int
    critics: int
    score_models: int
    """Models in the scorers, ensembles' members counted; without the reference."""
    signals: int
    """Score models by signal; each is a role of its own where scorers are not colocated."""
    ptx_rows: int
    """Demonstrations mixed into each gradient update."""

    @property
    def row_tokens(self) -> float:
        """Prompt and response."""
        return self.prompt_tokens + self.response_tokens


def read_workload(
    settings: RunSettings, *, prompt_tokens: float | None = None, response_tokens: float | None = None
) -> Workload:
    """What the settings ask of a step.

    Args:
        prompt_tokens, response_tokens: means, where they are known; else half of what the settings allow.

    Raises:
        ConfigError: the algorithm has no loop, or more tokens are given than fit.
    """
    if settings.algorithm not in LOOP_ALGORITHMS:
        raise ConfigError(
            f"algorithm: {settings.algorithm} has no loop to plan; choose one of {', '.join(sorted(LOOP_ALGORITHMS))}"
        )
    ppo, longest = settings.ppo, settings.model.max_length
    room = longest - ppo.max_response_tokens
    prompt = prompt_tokens if prompt_tokens is not None else max(1.0, room / 2)
    response = response_tokens if response_tokens is not None else max(1.0, USUAL_RESPONSE * ppo.max_response_tokens)
    if response > ppo.max_response_tokens:
        raise ConfigError(
            f"--response-tokens: {response:g} are more than ppo.max_response_tokens = {ppo.max_response_tokens}"
        )
    if prompt > room:
        raise ConfigError(f"--prompt-tokens: {prompt:g} are more than model.max_length leaves for a prompt, {room}")
    names = list(settings.constraints)
    ensemble_sizes = [settings.cost_model.ensemble for name in names if settings.constraints[name].scorer is None]
    reward = settings.objective.signal != "none" and settings.objective.scorer is None
    ensemble_sizes += [settings.reward_model.ensemble] if reward else []
    ensemble_sizes += [1] if settings.halves.enabled else []
    critics = 0 if settings.algorithm in GROUP_ALGORITHMS else 1 if ppo.critics == "shared" else 1 + len(names)
    return Workload(
        batch=ppo.batch_size,
        minibatches=ppo.epochs * (ppo.batch_size // ppo.minibatch_size),
        epochs=ppo.epochs,
        prompt_tokens=prompt,
        response_tokens=response,
        longest_response=ppo.max_response_tokens,
        longest_row=longest,
        critics=critics,
        score_models=sum(ensemble_sizes),
        signals=len(ensemble_sizes),
        ptx_rows=ppo.ptx_batch_size if ppo.ptx_coefficient > 0 else 0,
    )
