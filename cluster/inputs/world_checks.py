"""What a configuration says about the sandbox's world: tags, kinds, categories and lengths that must exist there.

Reads the world file and renders its prompts; imports no engine, so `--dry-run` includes it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from actors.crowd.prompts import ATTACK_TAG
from actors.crowd.schedule import render_turns
from actors.crowd.world import KINDS, World, WorldError
from actors.crowd.world_reader import load_world
from cluster.inputs.sandbox_prompts import PURPOSES, Splits
from configs.exits import ConfigError, DataError
from configs.explain import suggestion
from configs.load import with_arms
from configs.schema.run import RunSettings
from learner.records import Message


def check_against_world(settings: RunSettings) -> World:
    """Refuse settings that name what the world does not have; returns the world they mean.

    Raises:
        DataError: the world file cannot be used.
        ConfigError: one line with key, reason and fix.
    """
    world = _world(settings)
    for prefix, variant in with_arms(settings):
        _refuse_first(variant, world if variant.sandbox == settings.sandbox else _world(variant), prefix)
    return world


def longest_prompt_tokens(world: World) -> int:
    """Tokens of this world's longest prompt, with the role and end tokens of the chat template.

    Word-level: every word is a token; a conversation opens with ``<bos>``, a turn adds its role, an assistant's turn
    inside ends with ``<eos>``, and ``<assistant>`` asks for the response.
    """
    return max(_prompt_lengths(world))


def mean_prompt_tokens(world: World) -> float:
    """Mean over this world's tasks and forms, counted as `longest_prompt_tokens`."""
    lengths = _prompt_lengths(world)
    return sum(lengths) / len(lengths)


def _prompt_lengths(world: World) -> list[int]:
    rng = random.Random(0)  # which other task is drawn changes no length: all have three steps
    return [
        _tokens(render_turns(world, task, form, rng))
        for task in world.tasks
        for form in world.forms_for(task.kind, ("seen", "heldout"))
    ]


def _world(settings: RunSettings) -> World:
    try:
        return load_world(settings.sandbox.world)
    except WorldError as error:
        raise DataError(f"sandbox.world: {error}") from error


def _tokens(messages: tuple[Message, ...]) -> int:
    inner_ends = sum(message["role"] == "assistant" for message in messages)
    return 2 + inner_ends + sum(1 + len(message["content"].split()) for message in messages)


def _refuse_first(settings: RunSettings, world: World, prefix: str) -> None:
    for key, sentence in _problems(settings, world):
        raise ConfigError(f"{prefix}{key}: {sentence}")


def _problems(settings: RunSettings, world: World) -> Iterator[tuple[str, str]]:
    tags = [*KINDS, ATTACK_TAG, *(form.id for form in world.forms)]
    for name, constraint in settings.constraints.items():
        for tag in constraint.subset:
            if tag not in tags:
                yield f"constraints.{name}.subset", f"no prompt has the tag '{tag}'; {suggestion(tag, tags)}"
    yield from _unknown_categories(settings, world)
    present = [kind for kind in KINDS if any(task.kind == kind and task.split == "seen" for task in world.tasks)]
    weights = {
        "ppo.kind_weights": settings.ppo.kind_weights,
        "preferences.kind_weights": settings.preferences.kind_weights,
    }
    for key, kind_weights in weights.items():
        for kind, weight in kind_weights.items():
            if kind not in KINDS:
                yield key, f"no kind '{kind}'; {suggestion(kind, list(KINDS))}"
            elif weight and kind not in present:
                yield key, f"this world has no seen task of kind '{kind}'; leave it out"
        if kind_weights and not any(kind_weights.values()):
            yield key, "every weight is 0; give one above 0, or leave kind_weights out"
    yield from _empty_splits(settings, world)
    longest, response = longest_prompt_tokens(world), settings.ppo.max_response_tokens
    length = settings.model.max_length
    if longest + response > length:
        yield (
            "model.max_length",
            f"{length} is too short: this world's longest prompt has {longest} tokens and a response up to "
            f"ppo.max_response_tokens = {response}; give at least {longest + response}",
        )


def _unknown_categories(settings: RunSettings, world: World) -> Iterator[tuple[str, str]]:
    by_key = {
        f"constraints.{name}.categories": constraint.categories for name, constraint in settings.constraints.items()
    }
    if settings.preferences.tampering is not None:
        by_key["preferences.tampering.categories"] = settings.preferences.tampering.categories
    for key, categories in by_key.items():
        for category in categories:
            if category not in world.categories.values():
                yield key, f"no category '{category}'; {_category_hint(category, world)}"


def _empty_splits(settings: RunSettings, world: World) -> Iterator[tuple[str, str]]:
    """Shares that leave a purpose without a conversation to judge by."""
    splits = Splits(world, settings.splits)
    for purpose in PURPOSES:
        for name, constraint in settings.constraints.items():
            if not splits.conversations(purpose, constraint.subset):
                yield (
                    f"splits.{purpose}" if purpose != PURPOSES[0] else "splits",
                    f"no {purpose} conversation is in the subset of constraint {name}; give a larger share, or by: conversation",
                )


def _category_hint(category: str, world: World) -> str:
    if category in world.categories:
        return f"write it in full: '{world.categories[category]}'"
    return suggestion(category, list(world.categories.values()))
