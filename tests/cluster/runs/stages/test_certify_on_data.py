"""What counts in a certificate on data: conversations, not prompts, and whatever a judge leaves open as unsafe."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.judging.answer_labels import AnswerLabels
from actors.judging.by_models.limits import Limit
from cluster.inputs.file_prompts import PromptBook
from cluster.runs.answers.judge_by_models import certificate_prompts, refuse_too_few_for_certificate
from cluster.runs.stages.on_data.certify import is_unsafe
from configs.exits import DataError
from configs.schema.run import RunSettings
from learner.data.training_sets import PROMPTS
from tests.serving.fake_scored_run import settings_of


def test_an_answer_that_the_judge_leaves_open_is_unsafe() -> None:
    judged = AnswerLabels(
        judge="llm:scripted",
        labels={"safe": False, "theft": True, "no-kind": True, "no-label": None},
        categories={"theft": ("theft",), "no-kind": ()},
        rows=5,
        filled=3,
        left_out={},
    )
    by_any_harm = {name: is_unsafe(judged, name, ()) for name in ("safe", "theft", "no-kind", "no-label", "absent")}
    by_fraud = {name: is_unsafe(judged, name, ("fraud",)) for name in by_any_harm}
    assert by_any_harm == {"safe": False, "theft": True, "no-kind": True, "no-label": True, "absent": True}
    assert by_fraud == {"safe": False, "theft": False, "no-kind": True, "no-label": True, "absent": True}
    assert is_unsafe(judged, "theft", ("fraud", "theft"))


def context_of(folder: Path, settings: RunSettings, *, conversations: int, cuts: int) -> Any:
    """Prompts kept for the certificate: `cuts` of each conversation, of which only those after the first are tagged ``late``."""
    rows = []
    for conversation in range(conversations):
        messages = [{"role": "user", "content": f"Question {conversation}"}]
        for cut in range(cuts):
            rows.append(
                {
                    "prompt_id": f"{conversation}-{cut}",
                    "messages": list(messages),
                    "tags": ["late"] if cut else [],
                    "category": None,
                    "purpose": "certificate",
                    "tokens": 3,
                }
            )
            messages += [{"role": "assistant", "content": "Yes."}, {"role": "user", "content": f"And {cut}?"}]
    path = folder / "prompts.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=PROMPTS), path)
    return cast(Any, SimpleNamespace(book=PromptBook(path), settings=settings))


def judged_settings(*, rate_limit: float = 0.1, subset: tuple[str, ...] = ()) -> RunSettings:
    """A run whose answers people certify."""
    settings = settings_of()
    certificate = settings.certificate.model_copy(update={"judge": "people", "rate_limit": rate_limit, "samples": 200})
    harm = settings.constraints["harm"].model_copy(update={"subset": subset})
    return settings.model_copy(update={"certificate": certificate, "constraints": {"harm": harm}})


def test_of_a_conversation_one_prompt_certifies(tmp_path: Path) -> None:
    settings = judged_settings()
    context = context_of(tmp_path, settings, conversations=12, cuts=4)
    prompts = certificate_prompts(context, Limit.of("harm", settings.constraints["harm"], None))
    assert len(prompts) == 12
    assert len({prompt.messages[0]["content"] for prompt in prompts}) == 12
    assert len({len(prompt.messages) for prompt in prompts}) > 1  # the draw, not the length, says which


def test_the_prompt_that_stands_for_a_conversation_is_one_that_the_constraint_covers(tmp_path: Path) -> None:
    settings = judged_settings(subset=("late",))
    context = context_of(tmp_path, settings, conversations=12, cuts=2)
    prompts = certificate_prompts(context, Limit.of("harm", settings.constraints["harm"], None))
    assert len(prompts) == 12 and all(prompt.tags == {"late"} for prompt in prompts)


def test_a_split_is_large_enough_by_its_conversations(tmp_path: Path) -> None:
    settings = judged_settings()  # 29 with no violation bound a rate by 0.098 at 95 %: 0.9 ** 29 = 0.047
    refuse_too_few_for_certificate(context_of(tmp_path, settings, conversations=29, cuts=1))
    with pytest.raises(DataError, match=r"28 conversations that constraint harm covers are kept .* needs 29 even"):
        refuse_too_few_for_certificate(context_of(tmp_path, settings, conversations=28, cuts=4))
