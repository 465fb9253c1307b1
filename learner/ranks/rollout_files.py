"""What was learned from, as Parquet: where `steelyard why` reads what was said and why it counted so.

One file per step and rank, written by the rank itself. Columns per row: ids, lengths, scores, multipliers; per response
token: behaviour, proximal and reference log-probs, combined advantage, advantage of each signal, and of an algorithm with
critics the value of each signal.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from torch import Tensor

from learner.algorithms.experience import cost_signal

if TYPE_CHECKING:
    from learner.algorithms.policy_batch import Experience


def rollout_file(folder: Path, step: int, rank: int) -> Path:
    """The file of one rank's samples of one step."""
    return folder / f"step-{step:05d}-rank{rank}.parquet"


def write_rollouts(path: Path, experience: Experience, multipliers: Mapping[str, float], step: int) -> None:
    """Write one rank's experience; the file is complete or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    parquet.write_table(rollout_table(experience, multipliers, step), partial, compression="zstd")
    partial.rename(path)


def rollout_table(experience: Experience, multipliers: Mapping[str, float], step: int) -> pa.Table:
    """The samples as a table, one row each; lists are float32 per response token, ``token_ids`` int32."""
    samples = experience.samples
    meta = samples.meta
    rows = len(meta)
    response = samples.response_lengths.numpy()
    total = samples.prompt_lengths.numpy() + response
    columns: dict[str, pa.Array] = {
        "request_id": pa.array([sample.request_id for sample in meta]),
        "prompt_id": pa.array([sample.prompt_id for sample in meta]),
        "step": pa.array(np.full(rows, step, dtype=np.int32)),
        "weight_version": pa.array(np.array([sample.weight_version for sample in meta], dtype=np.int32)),
        "generator": pa.array([sample.generator for sample in meta]),
        "finish_reason": pa.array([sample.finish_reason for sample in meta]),
        "prompt_length": pa.array(samples.prompt_lengths.numpy().astype(np.int32)),
        "response_length": pa.array(response.astype(np.int32)),
        "token_ids": _lists(samples.input_ids.numpy().astype(np.int32), total),
        "reward": pa.array(samples.reward.numpy()),
    }
    for name in samples.costs:
        columns[cost_signal(name)] = pa.array(samples.costs[name].numpy())
        columns[f"applies/{name}"] = pa.array(samples.subset[name].numpy())
        columns[f"multiplier/{name}"] = pa.array(np.full(rows, multipliers[name], dtype=np.float64))
    per_token: dict[str, Tensor] = {
        "behaviour_logprobs": samples.behaviour_logprobs,
        "proximal_logprobs": experience.proximal_logprobs,
        "reference_logprobs": samples.reference_logprobs,
        "advantages": experience.advantages,
        **{f"advantages/{signal}": table for signal, table in experience.estimate.advantages.items()},
        **{f"values/{signal}": table for signal, table in experience.values.items()},
    }
    columns |= {name: _lists(table.numpy(), response) for name, table in per_token.items()}
    return pa.table(columns)


def _lists(padded: np.ndarray, lengths: np.ndarray) -> pa.Array:
    """Rows of a right-padded ``[B, T]`` array, cut to their lengths."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    valid = np.arange(padded.shape[1])[None, :] < lengths[:, None]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(padded[valid]))
