"""Training of reward and cost models on labelled pairs (paper B, section 3.2).

In a cost file "better" is the safer response and "worse" the less safe one: a cost model scores the worse one higher.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import PreTrainedModel

from configs.exits import DataError
from configs.schema.supervised import ScoreModelSettings
from learner.algorithms.losses import reward_model_loss
from learner.models.modules import EndScores, load_tokenizer, new_score_model_from, pad_right, save_model
from learner.supervised.score_models.quality import Kind, PairLabels, form_of, judge, label_columns
from learner.supervised.training import (
    SupervisedEngine,
    TokenRows,
    TrainingContext,
    epochs_plan,
    evaluate_rows,
    gather_weights,
    load_weights,
    read_columns,
    run_steps,
)

HEAD_SPREAD = 0.02
"""Standard deviation of the head's first weights in an ensemble; a single model's head starts at zero."""


@dataclass(frozen=True)
class PreferenceTask:
    """Train a reward or cost model on the pairs in `data`, from the trunk of `policy`; absolute paths."""

    name: str
    kind: Kind
    data: Path
    """Parquet: ``better_ids``, ``worse_ids`` list<int32>, ``better_prompt_length``, ``worse_prompt_length``, ``split``
    (``train``, ``holdout`` or ``calibration``); ``half`` (0 or 1) where a task asks for one.

    Cost adds ``safer_sign``, ``less_safe_sign`` (+1 unsafe, -1 safe, 0 unknown: the term is left out) and
    ``rank_weight`` (1, or 0: the pair's term is left out).
    """
    policy: Path
    output: Path
    settings: ScoreModelSettings
    seed: int
    half: int | None = None
    """Train on this half of the training pairs only; None on all of them."""


class Pairs:
    """The rows of a preference file.

    Raises:
        DataError: the file cannot be used; names the row.
    """

    def __init__(self, path: Path, kind: Kind, config: object, half: int | None = None) -> None:
        tokens = ["better_ids", "better_prompt_length", "worse_ids", "worse_prompt_length"]
        table = read_columns(path, [*tokens, *label_columns(kind, half)])
        self.better, self.worse = TokenRows(table["better_ids"]), TokenRows(table["worse_ids"])
        for side, rows in (("better", self.better), ("worse", self.worse)):
            prompts = table[f"{side}_prompt_length"].to_numpy().astype(np.int64)
            rows.check(prompts, config, f"{path} ({side})", least_response=0)
        self.labels = PairLabels.of(table, str(path), kind, half)
        self.lengths = self.better.lengths + self.worse.lengths

    def batch(self, indices: np.ndarray, pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """``input_ids [2b, T]`` and lengths ``[2b]``: first the better responses, then the worse ones."""
        rows = [self.better[i] for i in indices] + [self.worse[i] for i in indices]
        ids, lengths = pad_right(rows, pad_id)
        return ids.to(device), lengths.to(device)


def cost_model_losses(
    safer: Tensor,
    less_safe: Tensor,
    safer_signs: Tensor,
    less_safe_signs: Tensor,
    rank_weights: Tensor,
    *,
    regularisation: float,
) -> Tensor:
    """`learner.algorithms.losses.cost_model_loss` per pair ``[B]``, with terms that can be left out.

    A sign of 0 leaves out that response's term; ``rank_weights`` weigh the pair's term. With every sign known and every
    weight 1 the mean equals `cost_model_loss`.
    """
    loss = -rank_weights * logsigmoid(less_safe - safer)
    for signs, scores in ((safer_signs, safer), (less_safe_signs, less_safe)):
        loss = loss - signs.abs() * logsigmoid(signs * scores)
    return loss + regularisation * 0.5 * (safer.square() + less_safe.square())


def train_preference(task: PreferenceTask, context: TrainingContext) -> dict[str, float]:
    """Run the task on this rank; collective. Rank 0 saves the model with the documents of `judge`.

    In an ensemble (``settings.ensemble`` above 1) the head starts at small random weights by the seed, so that members
    differ in more than the order of the pairs.

    Returns:
        The metrics of `judge`, ``loss``, ``steps``, ``seconds``, ``seconds_per_step`` and ``pairs`` (trained on).

    Raises:
        DataError: the data cannot be used.
        NonFiniteLoss: training diverged.
    """
    tokenizer, model = load_tokenizer(task.policy), new_score_model_from(task.policy)
    data = Pairs(task.data, task.kind, model.config, task.half)
    labels, settings = data.labels, task.settings
    if settings.ensemble > 1:
        start_head(model, task.seed)
    engine = SupervisedEngine(EndScores(model), settings.optimiser, context)
    signs = torch.from_numpy(labels.signs).to(engine.device)
    weights = torch.from_numpy(labels.rank_weights).to(engine.device)

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

    trained = np.flatnonzero(labels.train)
    plan = epochs_plan(trained, epochs=settings.epochs, batch_size=settings.batch_size, seed=task.seed)
    curves = run_steps(engine, context, task.name, plan, data.lengths, settings.optimiser, loss_share)
    scores = score_pairs(engine, context, data, tokenizer.pad_token_id)
    metrics, documents = judge(task.kind, labels, scores, form_of(settings))
    metrics |= curves.metrics() | {"pairs": float(len(trained))}
    state = gather_weights(engine, context)
    if context.ranks.rank == 0:
        saved = new_score_model_from(task.policy)
        load_weights(saved, state)
        documents["training.json"] |= {
            "task": task.name,
            "kind": task.kind,
            "seed": task.seed,
            "settings": settings.model_dump(mode="json"),
            "metrics": metrics,
            "curves": curves.document(),
        }
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


def start_head(model: PreTrainedModel, seed: int) -> None:
    """Give a zero head small random weights by the seed; the caller's random generator is left alone."""
    drawn = np.random.default_rng(seed).normal(0.0, HEAD_SPREAD, tuple(model.score.weight.shape))
    with torch.no_grad():
        model.score.weight.copy_(torch.from_numpy(drawn))
