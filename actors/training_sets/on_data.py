"""Training sets of a run on data, as Ray tasks: bulk goes from files to files, only counts come back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
import ray

from configs.exits import DataError
from configs.schema.supervised import ModelSettings
from learner.data.bpe import train_byte_level_bpe
from learner.data.quarantine import Quarantine
from learner.data.records import LabelledResponse, Parsed, PreferencePair
from learner.data.set_labels import Choice
from learner.data.set_writer import SetReport
from learner.data.sources import FoundSource, rows_of
from learner.data.splits import Shares
from learner.data.tokenise import TokenLimits
from learner.data.tokenizer import load_tokenizer
from learner.data.training_sets import write_cost_pairs, write_demonstrations, write_prompts, write_reward_pairs
from learner.models.modules import new_policy, save_model

SetKind = Literal["demonstrations", "reward", "cost", "prompts"]
DEFAULT_TEMPLATE = "papers"
"""Of a tokenizer that is trained here and has none of its own."""


@dataclass(frozen=True)
class SetRequest:
    """One file to make."""

    kind: SetKind
    sources: tuple[FoundSource, ...]
    path: Path
    tokenizer: Path
    limits: TokenLimits
    shares: Shares
    show: Choice = "better"
    """Of demonstrations."""
    categories: tuple[str, ...] = ()
    """Of a cost."""


@ray.remote(num_cpus=0)
def train_tokenizer(sources: Sequence[FoundSource], settings: ModelSettings, seed: int, target: str) -> dict[str, Any]:
    """Train a tokenizer on every text of the sources, and write a new model's folder with it; returns their sizes."""
    tokenizer = train_byte_level_bpe(
        _texts(sources),
        vocab_size=settings.vocab_size,
        max_length=settings.max_length,
        template=settings.template or DEFAULT_TEMPLATE,
    )
    model = new_policy(settings, tokenizer, seed)
    save_model(model, tokenizer, Path(target))
    return {"vocabulary": len(tokenizer), "parameters": sum(parameter.numel() for parameter in model.parameters())}


@ray.remote(num_cpus=0)
def write_training_set(request: SetRequest) -> dict[str, Any]:
    """Make one file; bad rows go to ``quarantine-<file>`` next to it.

    Returns:
        `SetReport.document`; of a cost also ``labels``: ``signed`` responses (whose safety is labelled), ``unsafe`` ones
        among them, and ``pairs``, all of them of training pairs.
    """
    path = request.path
    with Quarantine(path.with_name(f"quarantine-{path.name}")) as quarantine:
        report = _write(request, rows_of(request.sources, quarantine))
    facts = report.document() | {"path": path.name}
    return facts | {"labels": cost_labels(path)} if request.kind == "cost" else facts


def _write(request: SetRequest, rows: Iterator[Parsed]) -> SetReport:
    tokenizer, path = load_tokenizer(request.tokenizer), request.path
    limits, shares = request.limits, request.shares
    match request.kind:
        case "demonstrations":
            return write_demonstrations(rows, tokenizer, path, limits=limits, shares=shares, choose=request.show)
        case "reward":
            return write_reward_pairs(rows, tokenizer, path, limits=limits, shares=shares)
        case "cost":
            return write_cost_pairs(rows, tokenizer, path, limits=limits, shares=shares, categories=request.categories)
        case "prompts":
            return write_prompts(rows, tokenizer, path, limits=limits, shares=shares)


def cost_labels(path: Path) -> dict[str, int]:
    """What a cost model's training pairs say of safety: ``pairs``, ``signed`` responses, ``unsafe`` ones among them."""
    table = pq.read_table(path, columns=["safer_sign", "less_safe_sign", "split"])
    train = np.array(table["split"].to_pylist(), dtype=object) == "train"
    signs = np.stack([table["safer_sign"].to_numpy(), table["less_safe_sign"].to_numpy()])[:, train]
    return {"pairs": int(train.sum()), "signed": int((signs != 0).sum()), "unsafe": int((signs > 0).sum())}


def _texts(sources: Sequence[FoundSource]) -> Iterator[str]:
    """Every turn and response of the good rows."""
    any_text = False
    for parsed in rows_of(sources):
        record = parsed.record
        if record is None or parsed.error is not None:
            continue
        any_text = True
        yield from (turn["content"] for turn in record.prompt)
        if isinstance(record, PreferencePair):
            yield from record.responses
        elif isinstance(record, LabelledResponse):
            yield record.response
    if not any_text:
        raise DataError("no source has a good row to train a tokenizer on; see: steelyard data check")


def unsafe_share(labels: Mapping[str, int]) -> float | None:
    """Share of the labelled responses that are unsafe; None where none is labelled."""
    return labels["unsafe"] / labels["signed"] if labels["signed"] else None
