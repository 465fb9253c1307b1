"""One trainable model on one rank: the TrainEngine Protocol and its DeepSpeed implementation (ZeRO 0 to 3).

Rank contract: every method is collective. All ranks call the same methods in the same order, with the same number of
forward and backward passes (ZeRO 2 and 3 communicate inside them), or the group hangs until its timeout.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed
from torch import Tensor, nn

from configs.exits import StoppedError
from learner.engine.micro_batch_size import MOST_BUCKET_ELEMENTS

ADAM_BETAS = (0.9, 0.95)
"""The papers' reference; the short memory of the second moment suits returns whose scale moves with the multiplier."""


GREATEST_GRADIENT = 1e18
"""Bound of a gradient's norm: its square still fits float32, in which DeepSpeed sums squares."""


class NonFiniteUpdate(StoppedError):
    """A loss, log-prob, value or gradient is not finite; the update was stopped before the optimiser moved."""


class TrainEngine(Protocol):
    """One model with its optimiser, perhaps spread over the ranks."""

    @property
    def device(self) -> torch.device:
        """The device that inputs must be on."""
        ...

    def forward(self, *inputs: Any) -> Tensor:
        """The module's output; gradients are recorded unless the caller switched them off."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this rank's share of a loss that is a *sum* over ranks; never averaged."""
        ...

    def gradient_bound(self) -> float:
        """An upper bound on what this rank has added to the gradient's norm since the last step; not collective.

        Not finite when any element of any gradient was not. Ask every engine, over all ranks, before any may step.
        """
        ...

    def step(self, learning_rate: float) -> float:
        """Clip, update, forget the gradient; returns the gradient's global norm before clipping.

        Raises:
            NonFiniteUpdate: the norm is not finite; no parameter was changed.
        """
        ...

    def gathered_parameters(self, bucket_bytes: int) -> Iterator[list[tuple[str, Tensor]]]:
        """Whole parameters in groups of at most `bucket_bytes` (one larger tensor is a group of its own)."""
        ...

    def save(self, folder: Path) -> None:
        """Write parameters and optimiser state into `folder`, this rank's share."""
        ...

    def load(self, folder: Path) -> None:
        """Read back what `save` wrote with the same number of ranks and ZeRO stage."""
        ...


def learning_rate(step: int, *, base: float, warmup_steps: int, total_steps: int, schedule: str) -> float:
    """Learning rate of optimiser step `step` (from 0): linear warm-up, then constant or a cosine to 0 at the end."""
    if step < warmup_steps:
        return base * (step + 1) / warmup_steps
    if schedule == "constant":
        return base
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return base * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def deepspeed_config(
    *, zero_stage: int, dtype: str, offload: bool, gradient_clip: float, parameters: int = MOST_BUCKET_ELEMENTS
) -> dict[str, Any]:
    """DeepSpeed's configuration; batch sizes are placeholders, for the caller owns accumulation and denominators."""
    bucket = max(2, min(parameters + parameters % 2, MOST_BUCKET_ELEMENTS))  # even: ZeRO 1 and 2 insist
    zero: dict[str, Any] = {
        "stage": zero_stage,
        "overlap_comm": False,
        "contiguous_gradients": True,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
    }
    if offload and zero_stage:
        zero["offload_optimizer"] = {"device": "cpu"}
    if zero_stage == 3:
        # Tiny parameters stay whole: gathering a 128-wide norm costs more than keeping it.
        zero |= {"stage3_param_persistence_threshold": 4096, "stage3_prefetch_bucket_size": bucket}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        # Stage 0 in float32 clips where it can also see the norm (`DeepSpeedTrainEngine._before_step`).
        "gradient_clipping": 0.0 if zero_stage == 0 and dtype == "float32" else gradient_clip,
        "zero_optimization": zero,
        "bf16": {"enabled": dtype == "bfloat16"},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
        "wall_clock_breakdown": False,
    }


def init_process_group(
    *, rank: int, world_size: int, address: str, port: int, backend: str, timeout_seconds: float
) -> None:
    """Join the ranks' default group; before deepspeed.initialize, whose device_id can hang later groups."""
    from datetime import timedelta

    torch.distributed.init_process_group(
        backend,
        init_method=f"tcp://{address}:{port}",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=timeout_seconds),
    )


class DeepSpeedTrainEngine:
    """A module under deepspeed.initialize; torch.distributed must be initialised.

    Args:
        module: its forward is the only way in (ZeRO 3 gathers parameters in module hooks).
        gradient_clip: maximum global norm.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        learning_rate: float,
        gradient_clip: float,
        zero_stage: int = 0,
        dtype: str = "float32",
        offload: bool = False,
    ) -> None:
        deepspeed = _deepspeed()
        module.eval()  # no dropout anywhere: proximal and current log-probs must agree at the same weights
        self._world_size = torch.distributed.get_world_size()
        self._gradient_clip = gradient_clip
        self._clips_here = zero_stage == 0 and dtype == "float32"
        self._zero_stage = zero_stage
        self._norm = math.nan
        optimiser = torch.optim.AdamW(
            module.parameters(), lr=learning_rate, betas=ADAM_BETAS, weight_decay=0.0, fused=not offload
        )
        config = deepspeed_config(
            zero_stage=zero_stage,
            dtype=dtype,
            offload=offload,
            gradient_clip=gradient_clip,
            parameters=sum(parameter.numel() for parameter in module.parameters()),
        )
        self._engine, self._optimiser, _, _ = deepspeed.initialize(
            model=module, optimizer=optimiser, config=config, dist_init_required=False
        )
        self._engine.module.eval()
        self._base_optimiser = optimiser
        optimiser.register_step_pre_hook(self._before_step)
        # DeepSpeed reduces, clips and moves in one call. So the gradients are watched before it takes them: whatever
        # the ZeRO stage, the norm of a sum is at most the sum of the norms.
        self._bound = torch.zeros((), device=self.device)
        self._watches = [parameter.register_hook(self._watch) for parameter in self._engine.module.parameters()]

    @property
    def device(self) -> torch.device:
        """The device that inputs must be on."""
        return torch.device(self._engine.device)

    def forward(self, *inputs: Any) -> Tensor:
        """The module called whole; gradients are recorded unless switched off."""
        return self._engine(*inputs)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this rank's share of a sum over ranks."""
        # DeepSpeed divides the summed gradient by the number of ranks.
        self._engine.backward(loss * self._world_size)

    @torch.no_grad()
    def _watch(self, gradient: Tensor) -> None:
        self._bound += torch.linalg.vector_norm(gradient, dtype=torch.float32)

    def gradient_bound(self) -> float:
        """The sum of the norms of every parameter's gradient in every backward pass since the last step."""
        return float(self._bound)

    def step(self, learning_rate: float) -> float:
        """Clip, update, forget the gradient; returns the norm before clipping."""
        self._bound.zero_()
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate
        self._norm = math.nan
        self._engine.step()
        norm = self._norm if self._clips_here else self._engine.get_global_grad_norm()
        norm = math.nan if norm is None else float(norm)
        # ZeRO leaves a step out, in silence, when its norm is invalid.
        if not (math.isfinite(norm) and self._engine.was_step_applied()):
            raise NonFiniteUpdate(
                f"the gradient's norm is {norm}: no parameter was changed; load a checkpoint to go on"
            )
        return norm

    def _before_step(self, optimiser: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """Last look at the gradient before parameters move; with stage 0 in float32, also the clipping."""
        if self._clips_here:
            parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
            self._norm = float(nn.utils.clip_grad_norm_(parameters, self._gradient_clip))
        else:
            norm = getattr(self._optimiser, "_global_grad_norm", None)
            self._norm = math.nan if norm is None else float(norm)
        if not math.isfinite(self._norm):
            raise NonFiniteUpdate(
                f"the gradient's norm is {self._norm}: the update was stopped before the optimiser moved"
            )

    def gathered_parameters(self, bucket_bytes: int) -> Iterator[list[tuple[str, Tensor]]]:
        """Whole parameters in groups; under ZeRO 3 gathered for the group and cloned."""
        for group in parameter_groups(self._engine.module.named_parameters(), bucket_bytes):
            yield self._gathered(group)

    def _gathered(self, group: list[tuple[str, nn.Parameter]]) -> list[tuple[str, Tensor]]:
        if self._zero_stage < 3:
            return [(name, parameter.detach()) for name, parameter in group]
        deepspeed = _deepspeed()
        with deepspeed.zero.GatheredParameters([parameter for _, parameter in group]):
            return [(name, parameter.detach().clone()) for name, parameter in group]

    def close(self) -> None:
        """Take all hooks off, so that the memory can be freed; the engine is of no more use."""
        for watch in self._watches:
            watch.remove()
        self._engine.destroy()

    def save(self, folder: Path) -> None:
        """DeepSpeed's own checkpoint: this rank's parameters and optimiser state."""
        self._engine.save_checkpoint(str(folder), tag="state", save_latest=False, exclude_frozen_parameters=False)

    def load(self, folder: Path) -> None:
        """Read back what `save` wrote.

        Raises:
            StoppedError: it was saved with other ranks or another ZeRO stage.
        """
        path, _ = self._engine.load_checkpoint(str(folder), tag="state", load_module_strict=True)
        if path is None:
            raise StoppedError(
                f"{folder} holds no engine state for this rank: it was saved with other ranks or ZeRO stage"
            )
        self._engine.module.eval()


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]], bucket_bytes: int
) -> Iterator[list[tuple[str, nn.Parameter]]]:
    """Consecutive parameters in groups of at most `bucket_bytes`, by their whole shapes (``ds_shape`` under ZeRO 3)."""
    group: list[tuple[str, nn.Parameter]] = []
    size = 0
    for name, parameter in named_parameters:
        elements = math.prod(getattr(parameter, "ds_shape", parameter.shape))
        bytes_here = elements * parameter.element_size()
        if group and size + bytes_here > bucket_bytes:
            yield group
            group, size = [], 0
        group.append((name, parameter))
        size += bytes_here
    if group:
        yield group


def _deepspeed() -> Any:
    """DeepSpeed, imported late (2 s) and kept from compiling an all-reduce that only its inference uses."""
    import logging

    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
