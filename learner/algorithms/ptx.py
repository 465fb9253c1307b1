"""The supervised batch that PTX mixes into each actor update (Ouyang et al. 2022; paper B, appendix B.2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import torch
from torch import Tensor

from configs.exits import DataError


@dataclass(frozen=True)
class PtxBatch:
    """A micro-batch of one rank, right-padded."""

    inputs: tuple[Tensor, Tensor, Tensor]
    """``input_ids [B, T]``, ``prompt_lengths [B]``, ``response_lengths [B]``."""
    mask: Tensor
    """Bool ``[B, R]``."""
    token_count: float
    """Response tokens of the whole supervised batch, over all ranks."""


class PtxData:
    """Demonstrations kept by every rank; each update draws the same rows on all and takes its own share.

    Args:
        rows: token ids of prompt and response, int32 ``[T_i]`` each.
        prompt_lengths: tokens of each row's prompt.
    """

    def __init__(self, rows: Sequence[np.ndarray], prompt_lengths: np.ndarray) -> None:
        self._rows = list(rows)
        self._prompt_lengths = np.asarray(prompt_lengths, dtype=np.int64)
        self._lengths = np.array([len(row) for row in rows], dtype=np.int64)
        if len(rows) == 0 or (self._lengths <= self._prompt_lengths).any() or (self._prompt_lengths < 1).any():
            raise DataError("the ptx data is empty, or a row has no prompt or no response: give rows of the SFT corpus")

    @classmethod
    def read(cls, path: Path) -> PtxData:
        """From a parquet file with the columns ``input_ids`` (list<int32>) and ``prompt_length``."""
        table = parquet.read_table(path, columns=["input_ids", "prompt_length"])
        rows = [np.asarray(row, dtype=np.int32) for row in table["input_ids"].to_pylist()]
        return cls(rows, table["prompt_length"].to_numpy())

    def batches(
        self,
        seed: Sequence[int],
        *,
        rows: int,
        rank: int,
        ranks: int,
        tokens_per_micro_batch: int,
        device: torch.device,
    ) -> Iterator[PtxBatch]:
        """This rank's micro-batches of `rows` rows drawn by `seed` without repetition; equally many on every rank."""
        drawn = np.random.default_rng([*seed]).permutation(len(self._rows))[: max(rows, ranks)]
        token_count = float((self._lengths[drawn] - self._prompt_lengths[drawn]).sum())
        rank_rows = drawn[rank::ranks]
        rank_rows = rank_rows[np.argsort(self._lengths[rank_rows], kind="stable")]
        shares = -(-int(self._lengths[drawn].sum()) // (ranks * tokens_per_micro_batch))
        count = max(1, min(shares, len(drawn) // ranks))
        for part in np.array_split(rank_rows, count):
            yield self._padded(part, token_count, device)

    def _padded(self, part: np.ndarray, token_count: float, device: torch.device) -> PtxBatch:
        ids = np.zeros((len(part), int(self._lengths[part].max())), dtype=np.int64)
        for index, row in enumerate(part):
            ids[index, : self._lengths[row]] = self._rows[row]
        prompt = torch.from_numpy(self._prompt_lengths[part]).to(device)
        response = torch.from_numpy(self._lengths[part] - self._prompt_lengths[part]).to(device)
        mask = torch.arange(int(response.max()), device=device)[None, :] < response[:, None]
        return PtxBatch((torch.from_numpy(ids).to(device), prompt, response), mask, token_count)
