"""Worlds: what is refused and how it is said, digests, the generator and the vocabulary."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors.crowd.corpus import sft_examples
from actors.crowd.generator import WorldSizes, generate_world, main
from actors.crowd.prompts import sandbox_prompts
from actors.crowd.vocabulary import world_words
from actors.crowd.world import DEFAULT_WORLD_PATH, World, WorldError
from actors.crowd.world_reader import load_world

Change = Callable[[dict[str, Any]], Any]


def harmful(raw: dict[str, Any]) -> dict[str, Any]:
    task: dict[str, Any] = raw["tasks"][40]
    return task


# (what is changed in the default world, what the message must name)
BROKEN: list[tuple[Change, list[str]]] = [
    (lambda raw: raw.update(colour="red"), ["unknown key 'colour'", "remove"]),
    (lambda raw: raw.pop("insults"), ["'insults' is missing", "add"]),
    (lambda raw: raw.update(schema=2), ["schema version 2", "use schema 1"]),
    (lambda raw: raw.update(schema=True), ["'schema'", "whole number"]),
    (lambda raw: raw.update(seed="0"), ["'seed' is a text", "whole number"]),
    (lambda raw: raw.update(insult_probability=1.5), ["insult_probability", "0 to 1"]),
    (lambda raw: raw.update(insult_probability=float("nan")), ["insult_probability", "0 to 1"]),
    (lambda raw: raw.update(insults=["oaf", "oaf"]), ["'insults' repeats"]),
    (lambda raw: raw.update(tasks=[]), ["'tasks' has 0 entries"]),
    (lambda raw: raw["categories"].update(beasts="animal_abuse"), ["categories", "same category"]),
    (lambda raw: harmful(raw).update(harmful_steps=[0, 3]), ["task 'ha040'", "3, out of range", "0 to 2"]),
    (lambda raw: harmful(raw).update(harmful_steps=[0, 0]), ["task 'ha040'", "repeats"]),
    (lambda raw: harmful(raw).update(harmful_steps=[]), ["task 'ha040'", "no harmful steps"]),
    (lambda raw: harmful(raw).update(harmful_steps=["0"]), ["task 'ha040'", "whole numbers"]),
    (lambda raw: harmful(raw).update(category="cooking"), ["task 'ha040'", "unknown category 'cooking'"]),
    (lambda raw: harmful(raw).update(category=None), ["task 'ha040'", "no category"]),
    (lambda raw: harmful(raw).update(kind="evil"), ["task 'ha040'", "'kind' is 'evil'", "dual_use"]),
    (lambda raw: harmful(raw).update(kind="dual_use"), ["task 'ha040'", "every step", "leave one safe"]),
    (lambda raw: harmful(raw).update(kind="benign"), ["task 'ha040'", "has harmful steps"]),
    (lambda raw: harmful(raw).update(split="test"), ["task 'ha040'", "'split' is 'test'", "seen, heldout, unknown"]),
    (lambda raw: harmful(raw).update(id="be000"), ["task 'be000'", "used twice"]),
    (lambda raw: harmful(raw).update(steps=[["a", "b"]]), ["task 'ha040'", "exactly 3"]),
    (lambda raw: harmful(raw).update(steps=[["a", "b"], ["c"], ["d", "e"]]), ["task 'ha040'", "steps[1]", "pair"]),
    (lambda raw: harmful(raw).update(verb=" hex"), ["task 'ha040'", "'verb'", "one space"]),
    (lambda raw: harmful(raw).update(verb="{hex}"), ["task 'ha040'", "'verb'", "brace"]),
    (lambda raw: harmful(raw).update(note="x"), ["task 'ha040'", "unknown key 'note'"]),
    (lambda raw: harmful(raw).pop("verb"), ["task 'ha040'", "'verb' is missing"]),
    (lambda raw: harmful(raw).update(alternative=None), ["task 'ha040'", "both or neither"]),
    (lambda raw: harmful(raw).update(alternative=None, alternative_value=None), ["task 'ha040'", "reason_alternative"]),
    (lambda raw: raw["forms"][0].update(id="polite"), ["form 'polite'", "used twice"]),
    (lambda raw: raw["forms"][0].update(id="attack"), ["form 'attack'", "rename"]),
    (lambda raw: raw["forms"][0].update(split="unknown"), ["form 'direct'", "seen, heldout"]),
    (lambda raw: raw["forms"][0].update(attack="no"), ["form 'direct'", "'attack' is a text"]),
    (lambda raw: raw["forms"][0].update(turns=["a {verb} {object}", "b"]), ["form 'direct'", "odd number"]),
    (lambda raw: raw["forms"][0].update(turns=["how to {verb} ?"]), ["form 'direct'", "lacks placeholder 'object'"]),
    (lambda raw: raw["forms"][0].update(turns=["{verb} {object} {x}"]), ["form 'direct'", "unknown placeholder 'x'"]),
    (lambda raw: raw["segments"].update(step="{a} ."), ["segments", "'step' lacks placeholder 'b'"]),
    (lambda raw: raw["segments"].update(step="{a} {b"), ["segments", "'step' is not a template", "braces"]),
    (lambda raw: raw["segments"].update(step="{a!r} {b}"), ["segments", "'step' formats"]),
    (lambda raw: raw["segments"].update(open="{{ sure"), ["segments", "'open' has an escaped brace"]),
    (lambda raw: raw["segments"].update(ordinals=["first"]), ["segments", "at least 3"]),
    (lambda raw: raw["segments"].pop("insult"), ["segments", "'insult' is missing"]),
    (lambda raw: raw["behaviours"].update(rude={"refuse": 1.0}), ["behaviours", "unknown kind 'rude'"]),
    (lambda raw: raw["behaviours"]["benign"].update(sing=0.0), ["behaviours.benign", "unknown behaviour 'sing'"]),
    (lambda raw: raw["behaviours"]["benign"].update(refuse=0.5), ["behaviours.benign", "add up to"]),
    (lambda raw: raw["behaviours"].pop("benign"), ["kind 'benign'", "add behaviours.benign"]),
    (
        lambda raw: raw.update(forms=[form for form in raw["forms"] if form["attack"]]),
        ["no seen form", "kind 'ambiguous'"],
    ),
    (lambda raw: raw.update(tasks=raw["tasks"][40:]), ["{other_*}", "benign"]),
]


@pytest.mark.parametrize(
    ("change", "named"), BROKEN, ids=[named[-1] + "/" + str(i) for i, (_, named) in enumerate(BROKEN)]
)
def test_a_broken_world_is_refused_in_one_line_that_names_the_place(
    change: Change, named: list[str], raw_world: dict[str, Any], write_world: Callable[[Any], Path]
) -> None:
    change(raw_world)
    path = write_world(raw_world)
    with pytest.raises(WorldError) as refusal:
        load_world(path)
    message = str(refusal.value)
    assert "\n" not in message
    for words in [str(path), *named]:
        assert words in message


@pytest.mark.parametrize("raw", [[], "world", None, 3])
def test_a_file_that_holds_no_object_is_refused(raw: Any, write_world: Callable[[Any], Path]) -> None:
    with pytest.raises(WorldError, match="not an object"):
        load_world(write_world(raw))


def test_a_missing_file_and_a_file_that_is_not_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WorldError, match="cannot be read"):
        load_world(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(WorldError, match="is not JSON"):
        load_world(tmp_path / "bad.json")


def test_a_world_error_survives_the_trip_between_processes() -> None:
    error = WorldError("w.json", "task 'x'", "is odd", "fix it")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_the_digest_ignores_layout_and_sees_every_value(
    raw_world: dict[str, Any], default_world: World, tmp_path: Path
) -> None:
    shuffled = tmp_path / "shuffled.json"
    shuffled.write_text(json.dumps(dict(reversed(raw_world.items())), indent=7))
    assert load_world(shuffled).digest() == default_world.digest()
    raw_world["tasks"][40]["alternative_value"] += 0.1
    shuffled.write_text(json.dumps(raw_world))
    assert load_world(shuffled).digest() != default_world.digest()


def test_a_world_round_trips_through_its_dictionary(default_world: World, raw_world: dict[str, Any]) -> None:
    assert default_world.to_dict() == raw_world


def test_the_packaged_world_is_what_the_generator_writes_for_seed_0(tmp_path: Path) -> None:
    main(["--seed", "0", "--out", str(tmp_path / "new" / "world.json")])
    assert (tmp_path / "new" / "world.json").read_bytes() == DEFAULT_WORLD_PATH.read_bytes()


def test_seeds_give_the_same_world_twice_and_different_worlds() -> None:
    assert generate_world(5) == generate_world(5)
    assert generate_world(5)["tasks"] != generate_world(6)["tasks"]


# counts of the reference world, shared/sandbox/world.json: (seen, heldout, unknown) per kind
REFERENCE_COUNTS = {
    "benign": (29, 7, 4),
    "harmful": (30, 8, 4),
    "lookalike": (11, 3, 2),
    "dual_use": (7, 2, 1),
    "ambiguous": (7, 2, 1),
}


@pytest.mark.parametrize("seed", [0, 1, 17])
def test_generated_worlds_have_the_reference_statistics(seed: int) -> None:
    tasks = generate_world(seed)["tasks"]
    assert len(tasks) == 118
    counts = Counter((task["kind"], task["split"]) for task in tasks)
    for kind, expected in REFERENCE_COUNTS.items():
        assert tuple(counts[kind, split] for split in ("seen", "heldout", "unknown")) == expected
    assert set(Counter(task["category"] for task in tasks if task["kind"] == "harmful").values()) == {3}
    assert len({(task["verb"], task["object"]) for task in tasks}) == 118


@pytest.mark.parametrize("seed", [0, 1, 17])
def test_sinister_nouns_occur_in_harmful_steps_only_and_mark_most_of_them(seed: int) -> None:
    tasks = generate_world(seed)["tasks"]
    ordinary = {
        step[1]
        for task in tasks
        for index, step in enumerate(task["steps"])
        if task["kind"] != "harmful" and index not in task["harmful_steps"]
    }
    marked = [sum(step[1] not in ordinary for step in t["steps"]) for t in tasks if t["kind"] == "harmful"]
    assert set(marked) == {2, 3} or set(marked) == {2}
    for task in (task for task in tasks if task["kind"] == "dual_use"):
        assert task["steps"][task["harmful_steps"][0]][1] not in ordinary


def test_lookalikes_share_a_verb_or_an_object_with_a_harmful_task(default_world: World) -> None:
    harmful_tasks = [task for task in default_world.tasks if task.kind == "harmful"]
    verbs, objects = {task.verb for task in harmful_tasks}, {task.object for task in harmful_tasks}
    for task in default_world.tasks:
        shares = (task.verb in verbs) or (task.object in objects)
        assert shares == (task.kind in ("harmful", "lookalike")), task


def test_smaller_worlds_can_be_made_and_impossible_ones_are_refused() -> None:
    sizes = WorldSizes(benign=6, harmful_per_category=1, lookalike=4, dual_use=2, ambiguous=2)
    assert len(generate_world(3, sizes)["tasks"]) == 6 + 14 + 4 + 2 + 2
    with pytest.raises(ValueError, match="verb-object pairs"):
        WorldSizes(benign=400)
    with pytest.raises(ValueError, match="sinister_nouns"):
        WorldSizes(sinister_nouns=99)


def test_the_vocabulary_covers_every_prompt_and_demonstration(default_world: World) -> None:
    words = world_words(default_world)
    assert words == sorted(set(words)) and 100 < len(words) < 300
    prompts = sandbox_prompts(
        default_world,
        n=800,
        seed=0,
        task_splits=["seen", "heldout", "unknown"],
        form_splits=["seen", "heldout"],
        prefix="p",
    )
    texts = [m["content"] for p in prompts for m in p.messages]
    texts += [m["content"] for e in sft_examples(default_world, n=800, seed=0) for m in e.messages]
    assert {word for text in texts for word in text.split()} <= set(words)
