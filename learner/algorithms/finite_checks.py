"""What stops an update that is not finite: on all ranks together, before any optimiser moves, with the samples named."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import torch
from torch import Tensor

from learner.algorithms.experience import Samples
from learner.engine.collective import Ranks
from learner.engine.deepspeed_engine import GREATEST_GRADIENT, NonFiniteUpdate


def require_finite(ranks: Ranks, samples: Samples, broken: np.ndarray, quantity: str) -> None:
    """All ranks raise together when any rank has a broken row, so that none is left waiting.

    Args:
        broken: row indices of this rank.

    Raises:
        NonFiniteUpdate: names the requests.
    """
    if float(ranks.max(torch.tensor(float(len(broken) > 0)))) == 0.0:
        return
    ids = samples.request_ids
    names = {name for rank_names in ranks.gather_objects([ids[row] for row in broken]) for name in rank_names}
    raise NonFiniteUpdate(
        f"a {quantity} of {named(names)} is not finite: the update was stopped before the optimiser moved; "
        "look at the sample in rollouts/ and lower the learning rate, or go on from a checkpoint"
    )


def require_usable_gradients(ranks: Ranks, bounds: Mapping[str, Tensor]) -> None:
    """The last look at every engine's gradient, over all ranks, before the first optimiser moves; all raise together.

    The samples were finite by then, each for itself: what is left is PTX, or shares that add up to too much.

    Args:
        bounds: by engine, what `TrainEngine.gradient_bound` says on this rank.

    Raises:
        NonFiniteUpdate: a gradient is not finite, or too large for its norm to be.
    """
    totals = ranks.sum(torch.stack(list(bounds.values())))
    bad = [name for name, total in zip(bounds, totals, strict=True) if not total < GREATEST_GRADIENT]
    if bad:
        raise NonFiniteUpdate(
            f"the gradient of the {' and the '.join(bad)} is not finite, though every sample's own part is: the update was "
            "stopped before any optimiser moved; look at the PTX rows and lower the learning rate, or go on from a checkpoint"
        )


def named(request_ids: Collection[str]) -> str:
    """Request ids for a message, at most eight of them."""
    names = sorted(set(request_ids))
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"request {', '.join(names[:8])}{more}"
