"""Checkers of the vectors of normalisers, score head, collators and arena."""

from __future__ import annotations

from dataclasses import asdict
from typing import get_args

import torch

from actors.judging.by_judge.arena import arena_counts
from tests.golden.papers_reference.collators import pad_pairs, pad_prompts, pad_supervised
from tests.golden.papers_reference.normaliser import Mode, MovingAverage, Normaliser, RunningMoments, fresh_moments
from tests.golden.papers_reference.score_head import ScoreType, head_scores
from tests.golden.tools import LOOSE, TIGHT, Case, assert_close, mask_of, tensor

FLOAT32 = 1e-5
SCORE_TYPES: tuple[ScoreType, ...] = ("reward", "cost", "critic")
HEAD_MEAN, HEAD_VARIANCE, HEAD_MOMENTUM = 0.5, 2.25, 0.9
"""What the score head's normaliser starts with: the vectors' README gives it, the file does not."""


def check_normalizer_ema(inputs: Case, expected: Case) -> None:
    moments = MovingAverage(*fresh_moments(), momentum=inputs["momentum"], epsilon=inputs["epsilon"])
    check_normaliser(moments, inputs, expected, TIGHT)


def check_normalizer_running_mean_std(inputs: Case, expected: Case) -> None:
    moments = RunningMoments(*fresh_moments(), epsilon=inputs["epsilon"])
    check_normaliser(moments, inputs, expected, LOOSE)  # the reference divides once in float32


def check_normaliser(moments: Normaliser, inputs: Case, expected: Case, tolerance: float) -> None:
    for batch, wanted in zip(inputs["batches"], expected["after_each_batch"], strict=True):
        moments.update(tensor(batch))
        assert moments.count == wanted["count"]
        for name in ("mean", "var", "std"):
            assert_close(getattr(moments, name), wanted[name], tolerance, name)
    for mode in get_args(Mode):
        name = f"normalized_{mode}"
        assert_close(moments.normalise(tensor(inputs["probe"]), mode), expected[name], tolerance, name)


def check_score_head(inputs: Case, expected: Case) -> None:
    hidden, weight, bias = (
        torch.tensor(inputs[name], dtype=torch.float32) for name in ("last_hidden_state", "weight", "bias")
    )
    mask = mask_of(inputs["mask"])
    plain = head_scores(hidden, weight, bias, mask)
    assert_close(plain.scores, expected["scores_without_normalizer"], FLOAT32)
    assert_close(plain.end_scores, expected["end_scores_without_normalizer"], FLOAT32)
    for case, wanted in zip(inputs["cases"], expected["cases"], strict=True):
        score_type = SCORE_TYPES[case["score_type_index"]]
        start = torch.full((1,), HEAD_MEAN), torch.full((1,), HEAD_VARIANCE)
        moments = MovingAverage(*start, momentum=HEAD_MOMENTUM)
        evaluated = head_scores(hidden, weight, bias, mask, normaliser=moments, score_type=score_type)
        assert (moments.mean, moments.var) == start, "evaluation moved the normaliser"
        trained = head_scores(hidden, weight, bias, mask, normaliser=moments, score_type=score_type, train=True)
        found = {
            "end_index": evaluated.end_index,
            "eval_scores": evaluated.scores,
            "eval_end_scores": evaluated.end_scores,
            "train_end_scores": trained.end_scores,
            "mean_after_train_forward": moments.mean,
            "var_after_train_forward": moments.var,
        }
        for name, value in wanted.items():
            assert_close(found[name], value, FLOAT32, name)


def check_collators(inputs: Case, expected: Case) -> None:
    first, second, pad_id = inputs["first"], inputs["second"], inputs["pad_token_id"]
    (first_ids, first_mask), (second_ids, second_mask) = pad_pairs(first, second, pad_id)
    signs = torch.tensor(inputs["safety_signs"])
    prompt_ids, prompt_mask = pad_prompts(first, pad_id)
    ids, labels, mask = pad_supervised(first, inputs["labels"], pad_id)
    found = {
        "preference": {
            "better_input_ids": first_ids,
            "better_attention_mask": first_mask,
            "worse_input_ids": second_ids,
            "worse_attention_mask": second_mask,
        },
        "safety_preference": {
            "safer_input_ids": first_ids,
            "safer_attention_mask": first_mask,
            "safer_safety_sign": signs[:, 0],
            "unsafer_input_ids": second_ids,
            "unsafer_attention_mask": second_mask,
            "unsafer_safety_sign": signs[:, 1],
        },
        "prompt_only": {"input_ids": prompt_ids, "attention_mask": prompt_mask},
        "supervised": {"input_ids": ids, "labels": labels, "attention_mask": mask},
    }
    for batch, wanted in expected.items():
        for name, value in wanted.items():
            assert found[batch][name].long().tolist() == value, f"{batch} {name}"


def check_arena_metrics(inputs: Case, expected: Case) -> None:
    counts = asdict(arena_counts(inputs["reward_red"], inputs["cost_red"], inputs["reward_blue"], inputs["cost_blue"]))
    for name, value in expected.items():
        if isinstance(value, dict):
            assert counts[name]["count"] == value["count"], name
            if value["count"]:
                assert_close(counts[name]["blue_win_rate"], value["blue_win_rate"], 1e-12, name)
        elif isinstance(value, int):
            assert counts[name] == value, name
        else:
            assert_close(counts[name], value, 1e-12, name)
