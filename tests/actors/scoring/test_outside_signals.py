"""Functions and foreign models beside trained models in one scorer, without Ray, on tiny real models and tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from actors.rollout.scored_sample import fault_names, scored_sample
from actors.scoring.foreign_scorer import ForeignScorer, load_scorer_tokenizer, same_tokens
from actors.scoring.model_scorer import ModelScorer, ScoreMeta, ScorerModels
from actors.scoring.python_scorer import PythonOptions, PythonScorer
from actors.scoring.sources import ForeignModel, PythonSignal
from configs.exits import ConfigError, DataError
from configs.schema.resources import ScorerSettings
from configs.schema.supervised import ModelSettings
from learner.models import modules as models
from learner.models.score_models.folders import save_affine
from learner.records import RolloutChunk, RolloutMeta

TINY = ModelSettings(hidden_size=32, layers=1, heads=2, intermediate_size=32, max_length=32)
WORDS = ["how", "do", "i", "open", "a", "lock", "pick", "it", "first", "ask"]
SETTINGS = ScorerSettings(tokens_per_batch=24)
ANSWERS = ["pick it", "ask", "a lock i pick it first", "do ask first"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`sft` and `reward` of the policy, and `foreign`: the same words under other ids, with a system turn in its template."""
    root = tmp_path_factory.mktemp("models")
    tokenizer = models.build_tokenizer(WORDS, TINY.max_length)
    models.save_model(models.new_policy(TINY, tokenizer, seed=1), tokenizer, root / "sft")
    models.save_model(_with_head(models.new_score_model_from(root / "sft"), 1), tokenizer, root / "reward")
    other = models.build_tokenizer(["judge", *reversed(WORDS), "pad"], TINY.max_length)
    models.save_model(models.new_policy(TINY, other, seed=2), other, root / "other")
    models.save_model(_with_head(models.new_score_model_from(root / "other"), 2), other, root / "foreign")
    return root


def _with_head(model: Any, seed: int) -> Any:
    with torch.no_grad():
        model.score.weight.copy_(torch.randn(1, 32, generator=torch.Generator().manual_seed(seed)))
    return model


def chunk(folder: Path, answers: list[str] = ANSWERS, cut: int | None = 1) -> RolloutChunk:
    """One prompt, these answers; answer `cut` without an end token."""
    tokenizer = models.load_tokenizer(folder / "sft")
    prompt = models.prompt_token_ids(tokenizer, [{"role": "user", "content": "how do i open a lock"}])
    metas, rows = [], []
    for index, answer in enumerate(answers):
        ids = tokenizer(answer, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id] * (index != cut)
        finish = "length" if index == cut else "stop"
        metas.append(RolloutMeta(f"r{index}", "p", len(prompt), len(ids), finish, 0, "generator-0"))
        rows.append(np.array([*prompt, *ids], dtype=np.int32))
    return RolloutChunk(tuple(metas), tuple(rows), tuple(np.zeros(len(row)) for row in rows))


def scored(folder: Path, **signals: Any) -> ScoreMeta:
    held = {name.replace("__", "/"): source for name, source in signals.items()}
    scorer = ModelScorer("scorer-0", SETTINGS, ScorerModels(held, tokenizer=folder / "sft"))
    scorer.ready()
    return scorer.score(chunk(folder))[0]


# --- functions that the tests name ----------------------------------------------------------------------------------


def letters(conversations: Any) -> list[float]:
    assert all(turns[0] == {"role": "user", "content": "how do i open a lock"} for turns in conversations)
    return [float(len(turns[-1]["content"])) for turns in conversations]


def refuses_pick(conversations: Any) -> list[float | None]:
    if any("first" in turns[-1]["content"] for turns in conversations):
        raise RuntimeError("first things last")
    return [None if "pick" in turns[-1]["content"] else -1.0 for turns in conversations]


def name_of(function: Any) -> str:
    return f"{__name__}:{function.__name__}"


# --- mixed signals ----------------------------------------------------------------------------------------------------


def test_a_model_a_function_and_a_foreign_model_score_the_same_rows(folder: Path) -> None:
    meta = scored(
        folder,
        reward=folder / "reward",
        cost__long=PythonSignal(name_of(letters)),
        cost__harm=ForeignModel(folder / "foreign"),
    )
    assert meta.faults == {} and meta.fault_kinds == {}
    assert meta.scores["cost/long"] == tuple(float(len(answer)) for answer in ANSWERS)
    model, tokenizer = models.load_score_model(folder / "foreign"), models.load_tokenizer(folder / "foreign")
    for row, answer in enumerate(ANSWERS):
        turns = [{"role": "user", "content": "how do i open a lock"}]
        ids = models.prompt_token_ids(tokenizer, turns) + tokenizer(answer, add_special_tokens=False)["input_ids"]
        ids += [tokenizer.eos_token_id] * (row != 1)
        with torch.no_grad():
            expected = models.forward_end_scores(model, torch.tensor([ids]), torch.tensor([len(ids)])).item()
        assert meta.scores["cost/harm"][row] == pytest.approx(expected, abs=1e-5)
    alone = scored(folder, reward=folder / "reward")
    np.testing.assert_allclose(meta.scores["reward"], alone.scores["reward"], atol=1e-6)
    assert len(set(meta.scores["cost/harm"])) == len(ANSWERS), "a scorer that says the same of all proves nothing"


def test_a_fault_sets_its_sample_aside_with_its_kind_and_is_never_a_number(folder: Path) -> None:
    meta = scored(folder, reward=folder / "reward", cost__harm=PythonSignal(name_of(refuses_pick)))
    kinds = {"r0": "not_a_number", "r2": "raised", "r3": "raised"}
    assert {request: found["cost/harm"] for request, found in meta.fault_kinds.items()} == kinds
    assert set(meta.faults) == set(kinds) and "first things last" in meta.faults["r2"]
    assert [value for value in meta.scores["cost/harm"] if np.isfinite(value)] == [-1.0]
    rollouts = chunk(folder).meta
    sample, reason = scored_sample(rollouts[2], 2, [meta], {"reward", "cost/harm"})
    assert sample is None and "raised" in reason
    assert fault_names("r2", [meta]) == ["cost/harm/raised"] and fault_names("r1", [meta]) == []
    good, _ = scored_sample(rollouts[1], 1, [meta], {"reward", "cost/harm"})
    assert good is not None and good.costs == {"harm": -1.0}


def test_a_foreign_model_of_the_same_tokenizer_reads_the_policys_tokens_and_its_affine_counts(
    folder: Path, tmp_path: Path
) -> None:
    tokenizer = models.load_tokenizer(folder / "sft")
    models.save_model(models.load_score_model(folder / "reward"), tokenizer, tmp_path / "moved")
    save_affine(tmp_path / "moved", 2.0, -3.0)
    scorer = ForeignScorer(ForeignModel(tmp_path / "moved"), tokenizer, torch.device("cpu"), 64)
    assert not scorer.needs_text
    meta = scored(folder, reward=folder / "reward", cost__harm=ForeignModel(tmp_path / "moved"))
    np.testing.assert_allclose(meta.scores["cost/harm"], 2 * np.array(meta.scores["reward"]) - 3, atol=1e-5)


def test_other_words_or_another_template_are_another_tokenizer(folder: Path) -> None:
    policy = models.load_tokenizer(folder / "sft")
    assert same_tokens(load_scorer_tokenizer(folder / "reward", None), policy)
    assert not same_tokens(load_scorer_tokenizer(folder / "foreign", None), policy)
    assert not same_tokens(load_scorer_tokenizer(folder / "reward", "papers"), policy)


def test_what_a_scorers_tokenizer_does_not_take_is_refused_row_by_row(folder: Path, tmp_path: Path) -> None:
    """A model of 13 positions: one answer is too long beside the prompt."""
    short = models.build_tokenizer([*WORDS, "extra"], 13)
    config = LlamaConfig(
        vocab_size=len(short),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=13,
        num_labels=1,
        pad_token_id=short.pad_token_id,
    )
    models.save_model(LlamaForSequenceClassification(config), short, tmp_path / "short")
    meta = scored(folder, cost__harm=ForeignModel(tmp_path / "short"))
    assert {request: found["cost/harm"] for request, found in meta.fault_kinds.items()} == {"r2": "refused"}
    assert np.isfinite([meta.scores["cost/harm"][row] for row in (0, 1, 3)]).all()


def test_a_prompt_that_cannot_be_read_back_is_unreadable_for_text_and_no_matter_for_tokens(folder: Path) -> None:
    held = {"cost/long": PythonSignal(name_of(letters)), "cost/harm": ForeignModel(folder / "reward")}
    scorer = ModelScorer("scorer-0", SETTINGS, ScorerModels(held, tokenizer=folder / "sft"))
    whole = chunk(folder)
    cut = RolloutChunk(
        tuple(
            RolloutMeta(m.request_id, "p", m.prompt_length - 1, m.response_length + 1, m.finish_reason, 0, "g")
            for m in whole.meta
        ),
        whole.token_ids,
        whole.behaviour_logprobs,
    )
    meta, _ = scorer.score(cut)
    assert all(found == {"cost/long": "unreadable"} for found in meta.fault_kinds.values())
    assert len(meta.fault_kinds) == len(ANSWERS) and np.isfinite(meta.scores["cost/harm"]).all()


# --- starting and loading ---------------------------------------------------------------------------------------------


def test_what_is_wrong_at_the_start_is_told_by_ready_and_a_later_load_mends_it(folder: Path) -> None:
    wrong = ScorerModels({"cost/harm": PythonSignal("actors.scoring.examples:keywrd")}, tokenizer=folder / "sft")
    scorer = ModelScorer("scorer-0", SETTINGS, wrong)
    with pytest.raises(ConfigError, match=r"scorer of cost/harm: .*did you mean 'keyword'"):
        scorer.ready()
    with pytest.raises(ConfigError):
        scorer.score(chunk(folder))
    good = {"cost/harm": PythonSignal("actors.scoring.examples:keyword", {"words": ["pick"]})}
    scorer.load(ScorerModels(good, tokenizer=folder / "sft"))
    scorer.ready()
    assert scorer.score(chunk(folder))[0].scores["cost/harm"] == (1.0, -1.0, 1.0, -1.0)
    scorer.load(ScorerModels({"cost/harm": folder / "reward"}))
    assert "cost/harm" in scorer.score(chunk(folder))[0].scores


def test_a_scorer_without_template_end_token_or_tokenizer_says_so(folder: Path, tmp_path: Path) -> None:
    tokenizer = models.load_tokenizer(folder / "reward")
    tokenizer.chat_template = None
    models.save_model(models.load_score_model(folder / "reward"), tokenizer, tmp_path / "bare")
    with pytest.raises(ConfigError, match="no chat template: name one of papers"):
        load_scorer_tokenizer(tmp_path / "bare", None)
    assert load_scorer_tokenizer(tmp_path / "bare", "papers").chat_template
    with pytest.raises(DataError, match="holds no tokenizer"):
        load_scorer_tokenizer(tmp_path, None)


def test_a_function_has_a_budget_for_a_whole_chunk(folder: Path) -> None:
    import time

    def slow(conversations: Any) -> list[float]:
        time.sleep(0.25)
        return [1.0] * len(conversations)

    scorer = PythonScorer(slow, PythonOptions(batch_size=1, deadline_seconds=5.0, total_seconds=0.6))
    from actors.scoring.text import ConversationReader

    conversations, _ = ConversationReader(models.load_tokenizer(folder / "sft")).read(chunk(folder))
    begin = time.monotonic()
    found = scorer.score(conversations)
    assert time.monotonic() - begin < 2.0
    assert np.isfinite(found.values[0]) and set(found.kinds.values()) == {"too_slow"} and "r3" in found.kinds
    assert set(found.kinds) == set(found.faults)
