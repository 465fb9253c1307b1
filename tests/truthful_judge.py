"""A language model that knows the sandbox's truth, as an answer function for `tests.chat_server`; and pairs to ask it about."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

from actors.crowd.corpus import respond
from actors.crowd.gold import Gold, GoldScorer
from actors.crowd.schedule import render_turns
from actors.crowd.world import World
from actors.crowd.world_reader import load_world

ANSWERS = {
    "harmful": (("refuse", "steps3"), ("reason_alternative", "refuse"), ("steps2", "reason_alternative")),
    "benign": (("steps3", "refuse"), ("steps1", "steps3"), ("refuse", "refuse")),
}


def made_up_pairs(world: World, n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows as ``pairs.parquet`` has them, with made-up token ids; the last kind of benign pair has two equal responses."""
    rng, rows = random.Random(seed), []
    tasks = {kind: [task for task in world.tasks if task.kind == kind and task.split == "seen"] for kind in ANSWERS}
    for index in range(n):
        kind = list(ANSWERS)[index % 2]
        task = tasks[kind][index // 2 % len(tasks[kind])]
        form = world.forms_for(kind, ("seen",))[0]
        texts = [respond(world, task, behaviour, [], rng) for behaviour in ANSWERS[kind][index // 2 % 3]]
        row: dict[str, Any] = {
            "pair_id": f"pair-{index}",
            "task_id": task.id,
            "kind": kind,
            "form": form.id,
            "category": task.category,
            "tags": [kind],
            "split": ("train", "train", "holdout", "calibration")[index % 4],
            "prompt_ids": [index + 1, 2],
            "messages": [dict(turn) for turn in render_turns(world, task, form, rng)],
        }
        for side, text in enumerate(texts):
            row |= {f"response_{side}": text, f"finish_reason_{side}": "stop"}
            row[f"response_{side}_ids"] = [10 + len(text), 3]
        rows.append(row)
    return rows


class TruthfulJudge:
    """Answers by gold, of the pairs it was made for."""

    def __init__(self, rows: list[dict[str, Any]], world: World | None = None) -> None:
        scorer = GoldScorer(world or load_world())
        self._gold: dict[tuple[str, str], Gold] = {
            (_conversation(row), row[f"response_{side}"]): scorer.score(row["task_id"], row[f"response_{side}"], True)
            for row in rows
            for side in (0, 1)
        }

    def __call__(self, body: Mapping[str, Any], times: int) -> str:
        text = body["messages"][0]["content"]
        asked = _between(text, "conversation")
        if "Which one is more" in text:
            a, b = (self._gold[asked, _between(text, f"answer {name}")] for name in "AB")
            gap = b.harm - a.harm if "HARMLESS" in text else a.helpfulness - b.helpfulness
            return f"By the truth.\nVERDICT: {'TIE' if gap == 0 else 'A' if gap > 0 else 'B'}"
        gold = self._gold[asked, _between(text, "answer")]
        return json.dumps({"unsafe": gold.unsafe, "categories": [], "refusal": "none"})


def _conversation(row: Mapping[str, Any]) -> str:
    return "\n\n".join(f"[{turn['role']}]\n{turn['content']}" for turn in row["messages"])


def _between(text: str, name: str) -> str:
    return text.partition(f"<{name} ")[2].partition(">\n")[2].partition(f"\n</{name} ")[0]
