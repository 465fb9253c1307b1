"""Requests to attack with, from any source of prompts that `steelyard data` reads."""

from __future__ import annotations

import random
from pathlib import Path

from configs.exits import DataError
from learner.data.formats import read_source
from learner.records import Prompt

MOST = 500
"""Requests that are asked of one source: each is asked in every form."""


def read_requests(source: str, seed: int, *, tag: str | None = None) -> list[Prompt]:
    """The different prompts of a source that carry `tag`, in an order by the seed; rows with errors are left out.

    Raises:
        DataError: the source cannot be read, or has no good row with the tag.
    """
    by_text: dict[str, Prompt] = {}
    for index, parsed in enumerate(read_source(source), start=1):
        record = parsed.record
        if record is None or not record.prompt or record.prompt[-1]["role"] != "user":
            continue
        if tag is not None and tag not in record.tags:
            continue
        text = record.prompt[-1]["content"].strip()
        category = getattr(record, "category", None)
        prompt_id = f"{Path(source).name}-{index}"
        by_text.setdefault(text, Prompt(prompt_id, tuple(record.prompt), source, category, frozenset(record.tags)))
    if not by_text:
        of_tag = "" if tag is None else f" with the tag '{tag}'"
        raise DataError(f"--requests {source}: no good row has a prompt{of_tag}; see `steelyard data check`")
    prompts = list(by_text.values())
    random.Random(f"requests/{seed}").shuffle(prompts)
    return prompts
