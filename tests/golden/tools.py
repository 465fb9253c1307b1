"""What the checkers of golden vectors share. Tolerances are the vectors' README's, for float64 (rtol = atol)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

Case = Mapping[str, Any]
TIGHT = 1e-9
LOOSE = 1e-6


def tensor(numbers: Any) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def mask_of(numbers: Any) -> Tensor:
    return torch.tensor(numbers).bool()


def leaf(numbers: Any) -> Tensor:
    return tensor(numbers).requires_grad_()


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    (result,) = torch.autograd.grad(loss, of, retain_graph=True)
    return result


def assert_close(actual: Any, expected: Any, tolerance: float, name: str = "") -> None:
    actual = np.asarray(actual.detach().numpy() if isinstance(actual, Tensor) else actual)
    assert actual.shape == np.shape(expected), f"{name} has shape {actual.shape}, the file {np.shape(expected)}"
    np.testing.assert_allclose(actual, np.asarray(expected), rtol=tolerance, atol=tolerance, err_msg=name)
