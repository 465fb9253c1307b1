"""Reward and cost models from labelled pairs (paper B, section 3.2), and what they are worth on the hold-out rows.

In a cost file "better" is the safer response and "worse" the less safe one: a cost model scores the worse one higher.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor
from torch.nn.functional import logsigmoid

from configs.exits import DataError
from configs.schema.supervised import ScoreModelSettings
from learner.losses import reward_model_loss
from learner.models import EndScores, load_tokenizer, new_score_model_from, pad_right, save_model
from learner.statistics.calibration import expected_calibration_error, fit_platt, reliability_bins
from learner.training import (
    SupervisedEngine,
    TokenRows,
    TrainingContext,
    epochs_plan,
    evaluate_rows,
    gather_weights,
    holdout_column,
    load_weights,
    read_columns,
    run_steps,
)

HISTOGRAM_BINS = 20


@dataclass(frozen=True)
class PreferenceTask:
    """Train a reward or cost model on the pairs in `data`, from the trunk of `policy`; absolute paths."""

    name: str
    kind: Literal["reward", "cost"]
    data: Path
    """Parquet: ``better_ids``, ``worse_ids`` list<int32>, ``better_prompt_length``, ``worse_prompt_length``,
    ``holdout`` (bool: kept out of training, to measure accuracy and fit the calibration).

    Cost adds ``safer_sign``, ``less_safe_sign`` (+1 unsafe, -1 safe, 0 unknown: the term is left out) and
    ``rank_weight`` (1, or 0: the pair's term is left out).
    """
    policy: Path
    output: Path
    settings: ScoreModelSettings
    seed: int


class Pairs:
    """The rows of a preference file.

    Raises:
        DataError: the file cannot be used; names the row.
    """

    def __init__(self, path: Path, kind: str, config: object) -> None:
        cost = ["safer_sign", "less_safe_sign", "rank_weight"] if kind == "cost" else []
        names = ["better_ids", "better_prompt_length", "worse_ids", "worse_prompt_length", "holdout", *cost]
        table = read_columns(path, names)
        self.better, self.worse = TokenRows(table["better_ids"]), TokenRows(table["worse_ids"])
        for side, rows in (("better", self.better), ("worse", self.worse)):
            prompts = table[f"{side}_prompt_length"].to_numpy().astype(np.int64)
            rows.check(prompts, config, f"{path} ({side})", least_response=0)
        self.holdout = holdout_column(table)
        n = table.num_rows
        self.signs = np.zeros((2, n), dtype=np.float32)
        """Of safer and less safe, ``[2, n]``; all 0 in a reward file."""
        self.rank_weights = np.ones(n, dtype=np.float32)
        if kind == "cost":
            self.signs[:] = table["safer_sign"].to_numpy(), table["less_safe_sign"].to_numpy()
            self.rank_weights[:] = table["rank_weight"].to_numpy()
            if not np.isin(self.signs, (-1, 0, 1)).all() or not (self.rank_weights >= 0).all():
                raise DataError(f"{path}: signs must be +1, -1 or 0, and rank_weight not negative")
        if self.holdout.all() or not self.holdout.any():
            raise DataError(
                f"{path}: {int(self.holdout.sum())} of {n} pairs are held out: some must be, to measure accuracy, and some not"
            )
        self.lengths = self.better.lengths + self.worse.lengths

    def batch(self, indices: np.ndarray, pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """``input_ids [2b, T]`` and lengths ``[2b]``: first the better responses, then the worse ones."""
        rows = [self.better[i] for i in indices] + [self.worse[i] for i in indices]
        ids, lengths = pad_right(rows, pad_id)
        return ids.to(device), lengths.to(device)


def cost_model_losses(
    safer: Tensor, less_safe: Tensor, safer_signs: Tensor, less_safe_signs: Tensor, rank_weights: Tensor,
    *, regularisation: float,
) -> Tensor:  # fmt: skip
    """`learner.losses.cost_model_loss` per pair ``[B]``, with terms that can be left out.

    A sign of 0 leaves out that response's term; ``rank_weights`` weigh the pair's term. With every sign known and every
    weight 1 the mean equals `cost_model_loss`.
    """
    loss = -rank_weights * logsigmoid(less_safe - safer)
    for signs, scores in ((safer_signs, safer), (less_safe_signs, less_safe)):
        loss = loss - signs.abs() * logsigmoid(signs * scores)
    return loss + regularisation * 0.5 * (safer.square() + less_safe.square())


def train_preference(task: PreferenceTask, context: TrainingContext) -> dict[str, float]:
    """Run the task on this rank; collective. Rank 0 saves the model with ``training.json`` and ``normaliser.json``.

    ``normaliser.json`` holds mean and standard deviation of the scores over the training responses; a cost model also
    gets ``calibration.json`` (Platt on the hold-out labels), unless the fit is refused: ``calibrated`` is then 0 and
    ``training.json`` says why.

    Returns:
        ``pair_accuracy`` and ``pair_calibration_error`` on the hold-out rows, ``train_pair_accuracy``, ``score_mean``,
        ``score_std``, ``loss``, ``steps``, ``seconds``, ``seconds_per_step``, ``pairs``, ``holdout_pairs``; of a cost
        model also ``sign_accuracy``, ``train_sign_accuracy``, ``calibrated``, ``calibration_slope`` and
        ``calibration_intercept``.

    Raises:
        DataError: the data cannot be used.
        NonFiniteLoss: training diverged.
    """
    tokenizer, model = load_tokenizer(task.policy), new_score_model_from(task.policy)
    data = Pairs(task.data, task.kind, model.config)
    settings = task.settings
    engine = SupervisedEngine(EndScores(model), settings.optimiser, context.zero_stage)
    signs = torch.from_numpy(data.signs).to(engine.device)
    weights = torch.from_numpy(data.rank_weights).to(engine.device)

    def loss_share(part: np.ndarray, batch: np.ndarray) -> tuple[Tensor, Tensor]:
        ids, lengths = data.batch(part, tokenizer.pad_token_id, engine.device)
        better, worse = engine.forward(ids, lengths).split(len(part))
        if task.kind == "reward":
            loss = reward_model_loss(better, worse, regularisation=settings.regularisation).loss * len(part)
        else:
            rows = torch.from_numpy(part).to(engine.device)
            loss = cost_model_losses(
                better, worse, signs[0, rows], signs[1, rows], weights[rows], regularisation=settings.regularisation
            ).sum()
        return loss / len(batch), better + worse

    trained = np.flatnonzero(~data.holdout)
    plan = epochs_plan(trained, epochs=settings.epochs, batch_size=settings.batch_size, seed=task.seed)
    curves = run_steps(engine, context, task.name, plan, data.lengths, settings.optimiser, loss_share)
    scores = score_pairs(engine, context, data, tokenizer.pad_token_id)
    metrics, documents = judge(task.kind, data, scores)
    metrics |= curves.metrics() | {"pairs": float(len(trained)), "holdout_pairs": float(data.holdout.sum())}
    state = gather_weights(engine, context)
    if context.ranks.rank == 0:
        saved = new_score_model_from(task.policy)
        load_weights(saved, state)
        documents["training.json"] |= {
            "task": task.name, "kind": task.kind, "seed": task.seed, "settings": settings.model_dump(mode="json"),
            "metrics": metrics, "curves": curves.document(),
        }  # fmt: skip
        save_model(saved, tokenizer, task.output, documents)
    return metrics


def score_pairs(engine: SupervisedEngine, context: TrainingContext, data: Pairs, pad_id: int) -> np.ndarray:
    """Scores float64 ``[2, n]`` of better and worse responses, training and hold-out rows; collective.

    Raises:
        DataError: a score is not finite.
    """
    n = len(data.better)
    rows = [data.better[i] for i in range(n)] + [data.worse[i] for i in range(n)]
    scores = evaluate_rows(context, rows, pad_id, lambda ids, lengths, _: engine.forward(ids, lengths)).reshape(2, n)
    if not np.isfinite(scores).all():
        wrong = int((~np.isfinite(scores)).sum())
        raise DataError(f"{wrong} scores are not finite after training: lower the learning rate")
    return scores


def judge(kind: str, data: Pairs, scores: np.ndarray) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
    """Accuracies, normaliser and calibration from all scores ``[2, n]``; metrics and the folder's documents."""
    gaps = scores[0] - scores[1] if kind == "reward" else scores[1] - scores[0]
    ranked = data.rank_weights > 0
    train, held = ~data.holdout, data.holdout
    gaps_held = gaps[held & ranked]
    metrics = {
        "ranked_holdout_pairs": float(gaps_held.size),
        "score_mean": float(scores[:, train].mean()),
        "score_std": float(scores[:, train].std()),
    }
    if gaps_held.size:  # a rare category may have none
        metrics["pair_accuracy"] = float((gaps_held > 0).mean())
        metrics["pair_calibration_error"] = expected_calibration_error(expit(np.abs(gaps_held)), gaps_held > 0)
    if (train & ranked).any():
        metrics["train_pair_accuracy"] = float((gaps[train & ranked] > 0).mean())
    counts, edges = np.histogram(scores[:, train], bins=HISTOGRAM_BINS)
    training: dict[str, Any] = {"score_histogram": {"counts": counts.tolist(), "edges": edges.tolist()}}
    normaliser = {"mean": metrics["score_mean"], "std": metrics["score_std"], "n": int(2 * train.sum())}
    documents = {"training.json": training, "normaliser.json": normaliser}
    if kind == "cost":
        for name, rows in (("sign_accuracy", held), ("train_sign_accuracy", train)):
            known = (data.signs != 0) & rows
            if known.any():
                metrics[name] = float((scores * data.signs > 0)[known].mean())
        metrics["signed_holdout_responses"] = float(((data.signs != 0) & held).sum())
        calibrate(data, scores, metrics, documents)
    return metrics, documents


def calibrate(data: Pairs, scores: np.ndarray, metrics: dict[str, float], documents: dict[str, dict[str, Any]]) -> None:
    """Platt's fit on the hold-out labels, added to metrics and documents; a refused fit is recorded with its reason."""
    known = (data.signs != 0) & data.holdout
    try:
        fit = fit_platt(scores[known], data.signs[known] > 0)
    except (ValueError, RuntimeError) as error:
        metrics["calibrated"] = 0.0
        documents["training.json"]["calibration_refused"] = str(error)
        return
    metrics |= {"calibrated": 1.0, "calibration_slope": fit.slope, "calibration_intercept": fit.intercept}
    documents["calibration.json"] = {"slope": fit.slope, "intercept": fit.intercept, "n": fit.n}
    probabilities, unsafe = fit.probability(scores[known]), data.signs[known] > 0
    metrics["calibration_error"] = expected_calibration_error(probabilities, unsafe)
    documents["training.json"]["reliability"] = [
        {"predicted": each.mean_probability, "observed": each.unsafe_share, "n": each.n}
        for each in reliability_bins(probabilities, unsafe)
        if each.n
    ]
