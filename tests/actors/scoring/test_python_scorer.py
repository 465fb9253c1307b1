"""Python functions as scorers: every conversation gets its own number or a typed, counted fault; never a 0."""

from __future__ import annotations

import asyncio
import functools
import math
import re
import sys
import threading
import time
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from actors.scoring.examples import keyword, length_penalty
from actors.scoring.protocol import Conversation, ScorerFault, SignalScorer
from actors.scoring.python_scorer import PythonOptions, PythonScorer
from configs.exits import ConfigError
from tests.paths import ROOT

SPEC = "actors.scoring.examples:length_penalty"


def conversation(response: str, request_id: str = "") -> Conversation:
    messages = ({"role": "user", "content": "how do i"},)
    return Conversation(request_id or response, messages, response, True, np.array([2, 6, 3], dtype=np.int32), 2)


def batch(*responses: str) -> list[Conversation]:
    return [conversation(response, f"r{row}") for row, response in enumerate(responses)]


def fault_counts(scorer: PythonScorer) -> dict[str, int]:
    return {name.removeprefix("faults/"): n for name, n in scorer.counts.items() if name.startswith("faults/") and n}


# --- as reward and as cost -------------------------------------------------------------------------------------------


def test_the_examples_are_a_reward_and_a_cost() -> None:
    reward: SignalScorer = PythonScorer.from_spec(SPEC, PythonOptions({"per_word": 0.5, "free_words": 1}))
    cost: SignalScorer = PythonScorer.from_spec("actors.scoring.examples:keyword", PythonOptions({"words": ["Bomb"]}))
    answers = batch("open it", "a “plan” and a (bomb)!", "", "bombastic")
    np.testing.assert_array_equal(reward.score(answers).values, np.float32([-0.5, -2.0, 0.0, 0.0]))
    np.testing.assert_array_equal(cost.score(answers).values, np.float32([-1, 1, -1, -1]))
    assert reward.score([]).values.shape == (0,) and reward.score([]).faults == {}


def test_the_function_gets_the_prompts_turns_and_the_response_and_may_change_them() -> None:
    seen = []

    def rude(conversations):
        seen.append([list(turns) for turns in conversations])
        last = [turns.pop()["content"] for turns in conversations]
        conversations.clear()
        if len(last) > 1:
            raise ValueError("one at a time")
        return [float(len(last[0]))]

    answers = batch("ab", "c")
    assert PythonScorer(rude).score(answers).values.tolist() == [2.0, 1.0]
    assert seen[0][0] == [{"role": "user", "content": "how do i"}, {"role": "assistant", "content": "ab"}]
    assert len(answers[0].messages) == 1 and answers[0].response == "ab"


@pytest.mark.parametrize(
    "returned",
    [
        [0.5, -2],
        (0.5, -2),
        np.array([0.5, -2]),
        np.array([0.5, -2], dtype=np.float16),
        torch.tensor([0.5, -2]),
        [torch.tensor(0.5), np.float32(-2)],
        [np.float64(0.5), np.int8(-2)],
    ],
    ids=["list", "tuple", "array", "float16", "tensor", "of tensors", "of numpy numbers"],
)
def test_whatever_holds_plain_numbers_will_do(returned) -> None:
    scored = PythonScorer(lambda conversations: returned).score(batch("a", "b"))
    assert scored.values.tolist() == [0.5, -2.0] and scored.values.dtype == np.float32 and scored.faults == {}


# --- faults ----------------------------------------------------------------------------------------------------------

GOOD = st.floats(-(2.0**100), 2.0**100, width=32) | st.integers(-(2**60), 2**60)
BAD = [
    ("not_finite", math.nan),
    ("not_finite", math.inf),
    ("not_finite", -math.inf),
    ("not_finite", 1e39),
    ("not_finite", 10**5000),
    ("not_a_number", None),
    ("not_a_number", "0.5"),
    ("not_a_number", True),
    ("not_a_number", [0.5]),
    ("not_a_number", {}),
    ("not_a_number", 1j),
    ("not_a_number", Fraction(1, 2)),
    ("not_a_number", np.array([0.5])),
    ("not_a_number", np.bool_(True)),
    ("raised", ValueError("x" * 5000)),
    ("raised", SystemExit(3)),
    ("raised", KeyboardInterrupt()),
    ("raised", asyncio.CancelledError()),
    ("raised", RecursionError()),
    ("raised", TimeoutError("mine")),
    ("wrong_length", "drop"),
    ("wrong_length", "twice"),
]
PLANNED = GOOD.map(lambda value: ("ok", value)) | st.sampled_from(BAD)


@pytest.mark.parametrize("number", range(len(BAD)))
def test_every_bad_answer_spoils_its_own_conversation_only(number) -> None:
    check_plan([("ok", 1.5), BAD[number], ("ok", -2)], batch_size=3, is_async=number % 2 == 0)


@given(st.lists(PLANNED, max_size=12), st.integers(1, 5), st.booleans())
def test_only_guilty_conversations_are_set_aside_and_none_becomes_a_number(plan, batch_size, is_async) -> None:
    # A call with as many numbers too few as too many has the right length: nobody can tell.
    for start in range(0, len(plan), batch_size):
        part = plan[start : start + batch_size]
        lengths = [value for kind, value in part if kind == "wrong_length"]
        assume(not lengths or lengths.count("drop") != lengths.count("twice"))
    check_plan(plan, batch_size, is_async)


def check_plan(plan, batch_size: int, is_async: bool) -> None:
    """Score by a function that answers row i with plan[i] = (the fault it should become, or "ok"; what it does)."""

    def answer(conversations):
        answers = []
        for turns in conversations:
            kind, value = plan[int(turns[-1]["content"])]
            if kind == "raised":
                raise value
            if kind == "wrong_length":
                answers += [0.0, 0.0] if value == "twice" else []
            else:
                answers.append(value)
        return answers

    async def answer_later(conversations):
        await asyncio.sleep(0)
        return answer(conversations)

    scorer = PythonScorer(answer_later if is_async else answer, PythonOptions(batch_size=batch_size), name="rules:f")
    scored = scorer.score([conversation(str(row), f"r{row}") for row in range(len(plan))])
    scorer.close()
    for row, (kind, value) in enumerate(plan):
        if kind == "ok":
            assert scored.values[row] == np.float32(value) and f"r{row}" not in scored.faults
        else:
            assert math.isnan(scored.values[row])
            reason = scored.faults[f"r{row}"]
            assert reason.startswith(f"rules:f: {kind}: ") and len(reason) < 300 and "\n" not in reason
    kinds = [kind for kind, _ in plan if kind != "ok"]
    assert fault_counts(scorer) == {kind: kinds.count(kind) for kind in set(kinds)}
    assert scorer.counts["scored"] == len(plan) - len(kinds)
    assert set(scorer.counts) == {"scored", "retried", *(f"faults/{kind}" for kind in ScorerFault)}


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (None, "not_a_number: returned None, not a list of floats"),
        (0.5, "not_a_number: returned a float, not a list of floats"),
        (np.float32(0.5), "not_a_number: returned a float32"),
        ({"r0": 1.0}, "not_a_number: returned a dict"),
        ("0.5", "not_a_number: returned '0.5'"),
        ([], "wrong_length: returned 0 numbers for 1 conversations"),
        (np.zeros((1, 1)), "not_a_number: the score is a list"),
    ],
)
def test_the_reason_says_what_came_back(returned, said) -> None:
    scored = PythonScorer(lambda conversations: returned).score(batch("a"))
    assert math.isnan(scored.values[0]) and said in scored.faults["r0"]


def test_a_generator_is_no_list_and_a_wrong_answer_is_tried_one_by_one() -> None:
    scorer = PythonScorer(lambda conversations: (1.0 for _ in conversations))
    assert set(scorer.score(batch("a", "b")).faults) == {"r0", "r1"}
    assert scorer.counts["retried"] == 1


def test_errors_name_the_place_and_survive_a_message_that_raises() -> None:
    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise ValueError

    def broken(conversations):
        raise Unspeakable

    reason = PythonScorer(broken).score(batch("a")).faults["r0"]
    assert re.search(r"raised: Unspeakable: its message cannot be shown \(test_python_scorer\.py:\d+\)", reason)


def test_an_answer_that_raises_when_it_is_looked_at_is_a_fault() -> None:
    class Sly:
        def tolist(self):
            raise RuntimeError("not now")

    assert "raised: RuntimeError: not now" in PythonScorer(lambda _: [Sly()]).score(batch("a")).faults["r0"]


def test_retries_are_bounded() -> None:
    calls = []

    def broken(conversations):
        calls.append(len(conversations))
        raise ValueError

    assert len(PythonScorer(broken, PythonOptions(batch_size=4)).score(batch(*"abcdef")).faults) == 6
    assert calls == [4, 1, 1, 1, 1, 2, 1, 1]


# --- deadlines -------------------------------------------------------------------------------------------------------


def test_a_function_that_hangs_is_too_slow_is_not_called_twice_and_comes_back() -> None:
    go, running, most, threads = threading.Event(), [0], [0], set()

    def slow(conversations):
        threads.add(threading.get_ident())
        running[0] += 1
        most[0] = max(most[0], running[0])
        go.wait(30)
        running[0] -= 1
        return [1.0] * len(conversations)

    scorer = PythonScorer(slow, PythonOptions(deadline_seconds=0.05))
    begin = time.monotonic()
    first, second = scorer.score(batch("a", "b")), scorer.score(batch("c"))
    assert time.monotonic() - begin < 5
    assert np.isnan(first.values).all() and "too_slow: no answer within 0.05 s" in first.faults["r1"]
    assert "too_slow: an earlier call has not returned yet" in second.faults["r0"]
    assert fault_counts(scorer) == {"too_slow": 3} and scorer.counts["retried"] == 0
    go.set()
    for _ in range(200):
        if not (last := scorer.score(batch("d"))).faults:
            break
    assert last.values.tolist() == [1.0], "the late answer of an earlier call is not this one's"
    assert most == [1] and len(threads) == 1


def test_trying_one_by_one_has_a_deadline_of_its_own() -> None:
    stop = threading.Event()

    def hangs_alone(conversations):
        if len(conversations) > 1:
            raise ValueError
        if conversations[0][-1]["content"] == "hang":
            stop.wait(30)
        return [2.0]

    scorer = PythonScorer(hangs_alone, PythonOptions(deadline_seconds=0.6))
    begin = time.monotonic()
    scored = scorer.score(batch("a", "hang", *["c"] * 20))
    stop.set()
    assert time.monotonic() - begin < 6, "not a deadline for each"
    assert scored.values[0] == 2.0 and fault_counts(scorer) == {"too_slow": 21}
    assert "tried one by one" in scored.faults["r1"]


def test_a_coroutine_is_cancelled_at_its_deadline_and_the_next_call_runs_in_the_same_loop() -> None:
    cancelled, loops = [], set()

    async def slow(conversations):
        loops.add(id(asyncio.get_running_loop()))
        if conversations[0][-1]["content"] == "hang":
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                cancelled.append(True)
                raise
        return [3.0]

    scorer = PythonScorer(slow, PythonOptions(deadline_seconds=0.1))
    assert "too_slow" in scorer.score(batch("hang")).faults["r0"] and cancelled == [True]
    assert scorer.score(batch("a")).values.tolist() == [3.0] and len(loops) == 1


def test_a_timeout_of_the_functions_own_is_not_ours() -> None:
    async def impatient(conversations):
        async with asyncio.timeout(0.001):
            await asyncio.sleep(5)

    assert "raised: TimeoutError" in PythonScorer(impatient).score(batch("a")).faults["r0"]


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes an importable module with this text."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)
        sys.modules.pop(name, None)

    return write


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("length_penalty", "write it as module:function"),
        ("a b:c", "write it as module:function"),
        (":f", "write it as module:function"),
        ("../rules:f", "write it as module:function"),
        ("no_such_module_here:f", "there is no module 'no_such_module_here'"),
        ("actors.scoring.nowhere:f", r"there is no module 'actors.scoring.nowhere'"),
        ("actors.scoring.examples:length_penalti", "did you mean 'length_penalty'"),
        ("actors.scoring.python_scorer:FLOAT32_MAX", "is a float, not a function"),
        ("actors.scoring.python_scorer:PythonScorer", "is a type, not a function"),
        ("steelyard_broken:f", r"could not be imported: ValueError: no word list \(steelyard_broken\.py:2\)"),
        ("steelyard_ends:f", "could not be imported: SystemExit: 3"),
        ("steelyard_syntax:f", "could not be imported: SyntaxError"),
        ("steelyard_needs:f", "could not be imported: ModuleNotFoundError: No module named 'not_installed_here'"),
    ],
)
def test_a_wrong_name_is_one_line(module, spec, problem) -> None:
    module("steelyard_broken", "# rules\nraise ValueError('no\\n word list')\n")
    module("steelyard_ends", "raise SystemExit(3)\n")
    module("steelyard_syntax", "def f(:\n")
    module("steelyard_needs", "import not_installed_here\n")
    with pytest.raises(ConfigError, match=problem) as error:
        PythonScorer.from_spec(spec)
    assert "\n" not in str(error.value) and str(error.value).startswith(f"scorer {spec!r}")


def test_arguments_that_do_not_fit_are_found_at_once() -> None:
    with pytest.raises(ConfigError, match="unexpected keyword argument 'per_char'"):
        PythonScorer.from_spec(SPEC, PythonOptions({"per_char": 1}))
    with pytest.raises(ConfigError, match="missing a required"):
        PythonScorer(keyword)
    assert PythonScorer(functools.partial(length_penalty, per_word=2.0)).score(batch("a")).values[0] == -2.0
    assert PythonScorer(len).score(batch("a")).faults, "a function in C is called, and its answer judged"


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"deadline_seconds": 0}, {"deadline_seconds": math.nan}])
def test_options_out_of_range(wrong) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        PythonOptions(**wrong)


# --- docs ------------------------------------------------------------------------------------------------------------


def test_the_code_in_the_documentation_runs(module, capsys) -> None:
    written, called = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "scorers.md").read_text(), re.DOTALL)
    module("my_rules", written)
    assert PythonScorer.from_spec("my_rules:brevity").score(batch("a b")).values[0] == np.float32(-0.02)
    exec(called, {})
    assert capsys.readouterr().out.startswith("[1.] {'scored': 1, 'retried': 0, 'faults/raised': 0")
    for wrong, arguments in (("my_rules:brevty", {}), ("my_rulse:brevity", {}), ("my_rules:brevity", {"per_char": 1})):
        with pytest.raises(ConfigError) as error:
            PythonScorer.from_spec(wrong, PythonOptions(arguments))
        assert str(error.value) in (ROOT / "docs" / "scorers.md").read_text()
