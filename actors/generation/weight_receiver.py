"""vLLM's side of a weight update: receives buckets over gloo, or reads a model folder, and loads them layer by layer.

vLLM imports this module by name (``worker_extension_cls``) and so finds the backend registered. Invariant: between
`start_weight_update` and a successful `finish_weight_update` the engine must not be used; after a failure there it is of no
more use at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from vllm.config import VllmConfig
from vllm.config.weight_transfer import WeightTransferConfig
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from learner.engine.transport.gloo import GlooGroup, StoreAddress, receive_buckets
from learner.engine.transport.plan import BucketPlan, TransportError

BACKEND = "gloo"


@dataclass
class GroupInfo(WeightTransferInitInfo):
    """One epoch's group, and this engine's place in it."""

    address: StoreAddress
    epoch: int
    rank: int
    world_size: int
    timeout_seconds: float
    own_host: str
    plan: BucketPlan


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):
    """Where the weights of one update come from: the group, or a Hugging Face folder."""

    version: int
    folder: Path | None = None


class GlooWeightTransferEngine(WeightTransferEngine[GroupInfo, UpdateInfo]):
    """Receives what `learner.engine.transport.gloo.GlooSender` sends."""

    init_info_cls = GroupInfo
    update_info_cls = UpdateInfo

    def __init__(
        self, config: WeightTransferConfig, vllm_config: VllmConfig, device: torch.device, model: torch.nn.Module
    ) -> None:
        super().__init__(config, vllm_config, device, model)
        self._group: GlooGroup | None = None
        self._plan: BucketPlan | None = None

    def init_transfer_engine(self, init_info: GroupInfo) -> None:
        """Join an epoch's group in place of the one before. Blocks until all members have come."""
        self.shutdown()  # the old group first: its sender has left it already
        self._group = GlooGroup(
            init_info.address,
            epoch=init_info.epoch,
            rank=init_info.rank,
            world_size=init_info.world_size,
            timeout_seconds=init_info.timeout_seconds,
            own_host=init_info.own_host,
        )
        self._plan = init_info.plan

    def start_weight_update(self) -> None:
        """Plain loading would fail: on a CPU, oneDNN's prepacking has emptied the parameters."""
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """As the base class, without its synchronisation of the accelerator where there is none."""
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: UpdateInfo) -> None:
        """Load every parameter.

        Raises:
            TransportError: a bucket is lost or damaged, or no group was joined.
        """
        if update_info.folder is not None:
            self._load(_read_folder(update_info.folder))
            return
        if self._group is None or self._plan is None:
            raise TransportError("no weight group was joined yet: call join_group before receive_weights")
        for tensors in receive_buckets(self._group, self._plan, update_info.version):
            self._load(tensors)

    def _load(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        self.model.load_weights((name, tensor.to(self.device)) for name, tensor in tensors)

    def finish_weight_update(self) -> None:
        """Process what layers deferred (attention, padding), and repack a tied output layer."""
        finalize_layerwise_reload(self.model, self.model_config)
        if self.device.type == "cpu":
            # An output layer tied to the embedding shares its weight, but oneDNN multiplies with a packed copy that
            # layerwise reload (vLLM 0.32) leaves as it was at the start: log-probs would mix two versions.
            for module in self.model.modules():
                if isinstance(module, ParallelLMHead):
                    module.quant_method.process_weights_after_loading(module)

    def shutdown(self) -> None:
        """Leave the group."""
        self._group = None


def _read_folder(folder: Path) -> Iterable[tuple[str, torch.Tensor]]:
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a dict)
                yield name, tensors.get_tensor(name)


class ReceiverExtension:
    """Mixed into vLLM's worker; naming it makes vLLM import this module before it builds the worker."""


if BACKEND not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(BACKEND, GlooWeightTransferEngine)
