"""Combinations of settings that validate one by one and cannot work together; each is refused with its fix.

What needs the world's tasks and forms is checked by `cluster.checks`; this module knows numbers and paths only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from configs.schema.run import RunSettings

Problem = tuple[str, str]
"""(dotted key, what is wrong and what would be right)."""


def impossible_combinations(settings: RunSettings) -> Iterator[Problem]:
    """Every combination in `settings` that cannot work, the most basic first."""
    yield from _shares(settings)
    yield from _lengths(settings)
    yield from _certificate(settings)
    yield from _files(settings)
    yield from _crowd(settings)
    yield from _windows(settings)
    yield from _repeatable(settings)


def certificate_samples_needed(limit: float, confidence: float, constraints: int) -> int:
    """Samples without one failure that just certify ``rate <= limit``.

    Clopper-Pearson with no failure: ``(1 - limit)^n <= (1 - confidence) / K``; 59 for 5 % at 95 % with K = 1.
    """
    return math.ceil(math.log((1 - confidence) / constraints) / math.log(1 - limit))


def _shares(settings: RunSettings) -> Iterator[Problem]:
    ranks, workers = settings.resources.learner.ranks, settings.resources.supervised.workers
    batches = [
        ("ppo.minibatch_size", settings.ppo.minibatch_size, ranks, "resources.learner.ranks"),
        ("sft.batch_size", settings.sft.batch_size, workers, "resources.supervised.workers"),
        ("reward_model.batch_size", settings.reward_model.batch_size, workers, "resources.supervised.workers"),
        ("cost_model.batch_size", settings.cost_model.batch_size, workers, "resources.supervised.workers"),
    ]
    if settings.ppo.ptx_coefficient:
        batches.append(("ppo.ptx_batch_size", settings.ppo.ptx_batch_size, ranks, "resources.learner.ranks"))
    for key, size, parts, parts_key in batches:
        if size % parts:
            yield (
                key,
                f"{size} samples cannot be shared equally by {parts_key} = {parts}; {_near_multiple(size, parts)}",
            )


def _near_multiple(size: int, parts: int) -> str:
    below, above = size // parts * parts, (size // parts + 1) * parts
    return f"take {below} or {above}" if below else f"take {above}"


def _lengths(settings: RunSettings) -> Iterator[Problem]:
    response, length = settings.ppo.max_response_tokens, settings.model.max_length
    if response >= length:
        yield (
            "ppo.max_response_tokens",
            f"{response} leaves no room for a prompt in model.max_length = {length}; lower one or raise the other",
        )


def _certificate(settings: RunSettings) -> Iterator[Problem]:
    confidence, samples = settings.certificate.confidence, settings.certificate.samples
    for name, constraint in settings.constraints.items():
        if constraint.measure != "rate":
            continue
        needed = certificate_samples_needed(constraint.limit, confidence, len(settings.constraints))
        if samples < needed:
            yield (
                "certificate.samples",
                f"{samples} can never certify {name} <= {constraint.limit:.3g} at confidence {confidence:g}: "
                f"even with no violation {needed} are needed",
            )


def _files(settings: RunSettings) -> Iterator[Problem]:
    world = settings.sandbox.world
    if world is not None and not world.is_file():
        yield "sandbox.world", f"no file {world}; give the path of a world file, or leave it out for the packaged world"
    if settings.storage is not None and not settings.storage.is_absolute():
        yield "storage", f"{settings.storage} looks like a URL, which is not offered yet; give a folder"


def _crowd(settings: RunSettings) -> Iterator[Problem]:
    crowd = settings.preferences.crowd
    if crowd.votes % 2 == 0:
        yield "preferences.crowd.votes", f"{crowd.votes} votes can tie; take {crowd.votes - 1} or {crowd.votes + 1}"
    if crowd.votes > crowd.annotators:
        yield (
            "preferences.crowd.votes",
            f"{crowd.votes} votes need as many different people; raise preferences.crowd.annotators above {crowd.annotators}",
        )
    if crowd.mode == "mixed" and settings.constraints:
        yield (
            "preferences.crowd.mode",
            "a mixed crowd gives no safety labels, so no cost model can be trained; set constraints: {} or mode: decoupled",
        )


def _windows(settings: RunSettings) -> Iterator[Problem]:
    for name, one in settings.constraints.items():
        most = one.window_batches * settings.ppo.batch_size
        if one.min_samples > most:
            yield (
                f"constraints.{name}.min_samples",
                f"the window holds at most {most} samples (window_batches x ppo.batch_size), so the multiplier would never move",
            )


def _repeatable(settings: RunSettings) -> Iterator[Problem]:
    if settings.deterministic and settings.resources.generators.threads != 1:
        yield "resources.generators.threads", "deterministic runs are single-threaded; set it to 1"
