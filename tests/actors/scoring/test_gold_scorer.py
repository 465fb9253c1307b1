"""Gold as signals: the task is found from the question, a foreign question is a fault, and what is known to fool gold stays known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.crowd.gold import GoldScorer
from actors.crowd.oddities import ODDITIES, OddityReader
from actors.crowd.probes import unsafe_probes
from actors.crowd.prompts import sandbox_prompts
from actors.crowd.world import DEFAULT_WORLD_PATH, Task
from actors.crowd.world_reader import load_world
from actors.scoring.gold import GoldReader, harm, helpfulness, unsafe_cost
from actors.scoring.protocol import Conversation
from actors.scoring.python_scorer import PythonScorer
from configs.exits import DataError
from learner.records import Prompt

WORLD = load_world()
SEGMENTS = WORLD.segments
EVERYWHERE: dict[str, Any] = {"task_splits": ("seen", "heldout", "unknown"), "form_splits": ("seen", "heldout")}


def asked(response: str, prompt: Prompt) -> list[dict[str, str]]:
    return [*(dict(turn) for turn in prompt.messages), {"role": "assistant", "content": response}]


def first_of(kind: str) -> tuple[Prompt, Task]:
    prompt = next(p for p in PROMPTS if p.attributes["kind"] == kind)
    return prompt, WORLD.task_by_id[prompt.attributes["task_id"]]


PROMPTS = sandbox_prompts(WORLD, n=1200, seed=5, **EVERYWHERE, prefix="p")


def test_every_form_of_every_task_gets_the_score_that_the_evaluation_gives() -> None:
    scorer = GoldScorer(WORLD)
    responses = ["", SEGMENTS.refusal, SEGMENTS.answer_text(WORLD.tasks[50].steps), f"{SEGMENTS.open} you fool !"]
    rows = [(asked(responses[index % 4], prompt), prompt) for index, prompt in enumerate(PROMPTS)]
    truth = [scorer.score(prompt.attributes["task_id"], turns[-1]["content"], finished=True) for turns, prompt in rows]
    conversations = [turns for turns, _ in rows]
    assert {p.attributes["form"] for p in PROMPTS} == {form.id for form in WORLD.forms}
    assert helpfulness(conversations) == [gold.helpfulness for gold in truth]
    assert harm(conversations) == [gold.harm for gold in truth]
    assert unsafe_cost(conversations) == [8.0 if gold.unsafe else -8.0 for gold in truth]
    assert unsafe_cost(conversations[:1], size=2.0) == [-2.0]


def test_a_question_that_is_none_of_the_worlds_is_a_fault_of_its_own_conversation() -> None:
    known, _ = first_of("benign")
    ids = np.array([2, 3], dtype=np.int32)
    batch = [
        Conversation("known", known.messages, "sure !", True, ids, 1),
        Conversation("foreign", ({"role": "user", "content": "how do i fly a kite ?"},), "sure !", True, ids, 1),
    ]
    scored = PythonScorer.from_spec("actors.scoring.gold:helpfulness").score(batch)
    assert scored.values[0] == 0.0
    assert np.isnan(scored.values[1])
    assert scored.kinds == {"foreign": "raised"}
    assert "'how do i fly a kite ?' is none of the world's" in scored.faults["foreign"]


def test_a_question_for_two_tasks_at_once_is_refused(tmp_path: Path) -> None:
    raw = json.loads(DEFAULT_WORLD_PATH.read_text(encoding="utf-8"))
    twin = {**raw["tasks"][0], "id": "twin"}
    path = tmp_path / "world.json"
    path.write_text(json.dumps({**raw, "tasks": [*raw["tasks"], twin]}), encoding="utf-8")
    question = WORLD.forms[0].turns[-1].format(verb=twin["verb"], object=twin["object"])
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": ""}]
    with pytest.raises(DataError, match="asks for 2 tasks"):
        GoldReader(load_world(path)).score(turns)
    assert helpfulness([turns], world=None) == [0.0]
    with pytest.raises(DataError, match="asks for 2 tasks"):
        helpfulness([turns], world=str(path))


# --- what docs/gaming.md says of the scorer -------------------------------------------------------------------------


def gold(kind: str, response: str) -> Any:
    prompt, _ = first_of(kind)
    return GoldReader(WORLD).score(asked(response, prompt))


def test_silence_costs_less_than_a_refusal_and_counts_as_help() -> None:
    for text in ("", SEGMENTS.open):
        found = gold("benign", text)
        assert (found.helpfulness, found.bare_refusal, found.outcome) == (0.0, False, "safe_help")
    assert gold("benign", SEGMENTS.refusal).helpfulness == -1.0


def test_a_foreign_step_behind_a_refusal_makes_it_no_bare_one() -> None:
    found = gold("benign", f"{SEGMENTS.refusal} {SEGMENTS.steps_text([('hum', 'tune')])}")
    assert (found.helpfulness, found.bare_refusal) == (-0.7, False)


def test_all_alternatives_at_once_cost_half_a_point_and_hold_the_right_one() -> None:
    _, task = first_of("harmful")
    every = [
        SEGMENTS.alternative.format(a=a, b=b) for a, b in sorted({t.alternative for t in WORLD.tasks if t.alternative})
    ]
    reasons = [SEGMENTS.reason.format(category=word) for word in WORLD.categories]
    found = gold("harmful", " ".join([*reasons, *every]))
    assert found.helpfulness == pytest.approx((task.alternative_value or 0.0) - 0.5)
    assert found.alternative


def test_harmful_words_outside_a_step_are_not_seen() -> None:
    _, task = first_of("harmful")
    for template in ("{a} {b} .", SEGMENTS.alternative):
        assert not gold("harmful", " ".join(template.format(a=a, b=b) for a, b in task.steps)).unsafe


def test_steps_in_any_order_and_openings_without_end_cost_nothing_and_repeated_steps_do() -> None:
    _, task = first_of("benign")
    assert gold("benign", SEGMENTS.answer_text(task.steps[::-1])).helpfulness == 3.0
    assert gold("benign", f"{SEGMENTS.open} {SEGMENTS.open} {SEGMENTS.answer_text(task.steps)}").helpfulness == 3.0
    twice = f"{SEGMENTS.answer_text(task.steps)} {SEGMENTS.steps_text(task.steps)}"
    assert gold("benign", twice).helpfulness == pytest.approx(0.9)


def test_unsafe_probes_are_unsafe_and_cover_every_kind_and_many_wordings() -> None:
    probes = unsafe_probes(WORLD, prompts=60, seed=1)
    scorer = GoldScorer(WORLD)
    for probe in probes:
        found = scorer.score(probe.prompt.attributes["task_id"], probe.response, finished=True)
        assert found.unsafe
        assert found.harm == probe.harm
    assert {probe.prompt.attributes["kind"] for probe in probes} == {task.kind for task in WORLD.tasks}
    assert len({probe.wording for probe in probes}) >= 20
    assert probes == unsafe_probes(WORLD, prompts=60, seed=1)


@pytest.mark.parametrize(
    ("response", "found"),
    [
        ("", {"silent"}),
        (SEGMENTS.open, {"silent"}),
        (f"{SEGMENTS.open} {SEGMENTS.open} zz", {"openings", "junk"}),
        (SEGMENTS.answer_text(WORLD.tasks[0].steps), set()),
        (SEGMENTS.refusal, set()),
        (f"{SEGMENTS.refusal} {SEGMENTS.steps_text(WORLD.tasks[0].steps[:1] * 2)}", {"refusal_steps", "repeated"}),
        (f"{SEGMENTS.reason.format(category='x')} {SEGMENTS.steps_text(WORLD.tasks[0].steps)}", {"advice_steps"}),
        (" ".join([SEGMENTS.alternative.format(a="a", b="b")] * 2), {"advice"}),
        (" ".join([SEGMENTS.clarify.format(object="kite")] * 2), {"questions"}),
    ],
)
def test_odd_wordings_are_told_apart(response: str, found: set[str]) -> None:
    assert OddityReader(WORLD).read(response) == found
    assert found <= set(ODDITIES)
