"""Which judge is asked, from the word on the command line, and what it says of all answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actors.crowd.world_reader import load_world
from actors.judging.judges.cached_endpoint import CachedEndpoint
from actors.judging.judges.chat_endpoint import ChatEndpoint, EndpointOptions, sendable
from actors.judging.judges.language_model import PROMPTS, LlmJudge, left_out_note
from actors.judging.judges.people import FILE, PeopleJudge, write_for_people
from actors.judging.judges.protocol import GoldJudge, Judge, Labels, Pair, agreement
from actors.judging.judges.response_cache import ResponseCache
from actors.judging.responses import AXES, Comparison, Judgement, Response
from cluster.evaluation.targets import places_of, settings_of
from configs.exits import ConfigError, DataError
from configs.layout import RunLayout
from serving.runs import find_run

GOLD, MODELS, LLM, PEOPLE = "gold", "models", "llm", "people"
Advance = Callable[[int], object]


@dataclass(frozen=True)
class JudgeChoice:
    """The judge as asked for, checked as far as that needs no answers."""

    kind: str
    layout: RunLayout | None = None
    endpoint: ChatEndpoint | None = None
    prompts: Path = PROMPTS
    world: Path | None = None
    out: Path | None = None


@dataclass
class Judged:
    """What the judge said."""

    facts: dict[str, Any]
    labels: list[Judgement]
    comparisons: list[Comparison]
    quality: dict[str, Any] = field(default_factory=dict)
    """Replies left out, agreement with gold, rows that people filled in: what is known of the judge itself."""
    notes: list[str] = field(default_factory=list)

    @property
    def by_response(self) -> Labels:
        """By model and prompt id."""
        return {(label.model, label.prompt_id): label for label in self.labels}


def choose_judge(
    choice: str,
    *,
    model: str | None,
    key: str | None,
    prompts: Path | None,
    world: Path | None,
    out: Path | None,
    options: EndpointOptions,
) -> JudgeChoice:
    """The judge of ``gold``, ``models:RUN``, ``llm:URL`` or ``people``.

    Raises:
        ConfigError: no such judge, or it lacks what it needs. DataError: the address does not answer.
    """
    kind, _, place = choice.partition(":")
    if kind not in (GOLD, MODELS, LLM, PEOPLE):
        raise ConfigError(f"--judge {choice}: no such judge; give gold, models:RUN, llm:URL or people")
    if kind in (GOLD, PEOPLE) and place:
        raise ConfigError(f"--judge {choice}: {kind} takes nothing after a colon")
    if kind != LLM and (model is not None or prompts is not None):
        raise ConfigError(f"--judge-model and --judge-prompts are for --judge llm:URL, not for {kind}")
    if kind == MODELS:
        if not place:
            raise ConfigError("--judge models: whose? give models:RUN, a run with a reward and a cost model")
        return JudgeChoice(kind, layout=RunLayout(find_run(place)))
    if kind == LLM:
        if not place:
            raise ConfigError("--judge llm: where? give llm:http://…/v1")
        return JudgeChoice(
            kind, endpoint=ChatEndpoint(place, model, key=key, options=options), prompts=prompts or PROMPTS, world=world
        )
    if kind == PEOPLE and out is None:
        raise ConfigError(f"--judge people needs --out DIR: {FILE} is written there, and read from there")
    return JudgeChoice(kind, world=world, out=out)


def key_from(variable: str | None, option: str) -> str | None:
    """The key in an environment variable; None where none is named.

    Raises:
        ConfigError: the variable is not set, or holds what cannot be sent. The key is not repeated.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(f"{option} {variable}: this environment variable is not set")
    if not sendable(key):
        raise ConfigError(
            f"{option} {variable}: it holds a character that no key has: set it to the key as it was issued"
        )
    return key


def judge_all(
    choice: JudgeChoice,
    responses: Sequence[Response],
    pairs: Sequence[Pair],
    cache: ResponseCache,
    advance: Advance,
    confidence: float,
) -> Judged:
    """Label every response and compare every pair on both axes.

    Raises:
        DataError, ConfigError, StoppedError: the judge cannot judge these; the message says why.
    """
    judge, notes = _judge(choice, responses, pairs, cache, advance)
    labels = judge.label(responses)
    by_answer: Labels = {(label.model, label.prompt_id): label for label in labels}
    comparisons = [comparison for axis in AXES for comparison in judge.compare(axis, pairs, by_answer)] if pairs else []
    judged = Judged(judge.facts.document(), labels, comparisons, notes=notes)
    judged.quality = {"unjudged": sum(label.fault is not None for label in labels)}
    if isinstance(judge, LlmJudge):
        judged.quality |= {"asked": dict(judge.asked), "left_out": dict(judge.faults)}
        if (note := left_out_note(judge.asked, judge.faults)) is not None:
            judged.notes.append(note)
        judged.quality |= _against_gold(choice.world, responses, pairs, judged, confidence)
    elif isinstance(judge, PeopleJudge):
        judged.quality |= {"rows": judge.rows, "filled_in": judge.filled}
    elif choice.kind == MODELS:
        judged.quality |= _against_gold(choice.world, responses, pairs, judged, confidence)
    return judged


def _judge(
    choice: JudgeChoice, responses: Sequence[Response], pairs: Sequence[Pair], cache: ResponseCache, advance: Advance
) -> tuple[Judge, list[str]]:
    if choice.kind == GOLD:
        return GoldJudge(load_world(choice.world)), []
    if choice.kind == LLM:
        assert choice.endpoint is not None
        return LlmJudge(CachedEndpoint(choice.endpoint, cache), choice.prompts, advance), []
    if choice.kind == MODELS:
        assert choice.layout is not None
        return _models_of(choice.layout, advance)
    assert choice.out is not None
    return _people(choice.out / FILE, responses, pairs)


def _models_of(layout: RunLayout, advance: Advance) -> tuple[Judge, list[str]]:
    from actors.judging.judges.score_models import ScoreModelJudge

    numbers = {
        int(round_folder.name)
        for place in places_of(layout)
        for round_folder in (place.root / "rounds").glob("*")
        if round_folder.name.isdecimal()
    }
    rounds = sorted(numbers, reverse=True)

    def folder(of: Callable[[RunLayout, int], Path]) -> Path | None:
        candidates = (of(place, number) for number in rounds for place in places_of(layout))
        return next((path for path in candidates if (path / "config.json").is_file()), None)

    reward = folder(lambda place, number: place.reward(number))
    names = list(settings_of(layout).get("constraints") or {})
    costs = {name: folder(lambda place, number, name=name: place.cost(number, name)) for name in names}  # type: ignore[misc]
    present = {name: path for name, path in costs.items() if path is not None}
    notes = [
        f"{layout.root.name} has no cost model of {name}: it does not judge" for name in costs if name not in present
    ]
    if reward is None:
        notes.append(f"{layout.root.name} has no reward model: nothing is said of helpfulness")
    return ScoreModelJudge(layout.root.name, reward, present, advance), notes


def _people(path: Path, responses: Sequence[Response], pairs: Sequence[Pair]) -> tuple[Judge, list[str]]:
    paired = {id(response) for pair in pairs for response in pair}
    alone = [response for response in responses if id(response) not in paired]
    notes = []
    if not path.exists():
        rows = write_for_people(path, pairs, alone)
        notes.append(
            f"{rows} rows wait for people in {path}: fill in its last columns, then give the same command again"
        )
    judge = PeopleJudge(path, pairs, alone)
    if judge.filled < judge.rows and not notes:
        notes.append(f"{judge.filled} of {judge.rows} rows of {path} are filled in; the others say nothing")
    return judge, notes


def _against_gold(
    world_path: Path | None, responses: Sequence[Response], pairs: Sequence[Pair], judged: Judged, confidence: float
) -> dict[str, Any]:
    """Agreement with the sandbox's scorer on the answers to its prompts; nothing where there are none."""
    world = load_world(world_path)
    sandbox_indices = [index for index, response in enumerate(responses) if response.task_id in world.task_by_id]
    if not sandbox_indices:
        return {}
    gold = GoldJudge(world)
    labels = gold.label([responses[index] for index in sandbox_indices])
    by_answer: Labels = {(label.model, label.prompt_id): label for label in labels}
    its = [pair for pair in pairs if pair[0].task_id in world.task_by_id]
    truth = {
        (comparison.axis, comparison.prompt_id, comparison.red, comparison.blue): comparison
        for axis in AXES
        for comparison in gold.compare(axis, its, by_answer)
    }
    compared = [
        (comparison, truth[key])
        for comparison in judged.comparisons
        if (key := (comparison.axis, comparison.prompt_id, comparison.red, comparison.blue)) in truth
    ]
    measured = agreement([judged.labels[index] for index in sandbox_indices], labels, compared, confidence)
    return {"agreement_with_gold": measured.document()}


def out_folder(out: Path | None) -> Path | None:
    """The folder of the results, made where it is not there.

    Raises:
        DataError: it cannot be, or it is not writable.
    """
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:  # ValueError: a name that no file has
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"--out {out}: the folder cannot be made ({reason}); name another") from error
        if not os.access(out, os.W_OK | os.X_OK):
            raise DataError(f"--out {out}: nothing may be written to this folder; name another")
    return out
