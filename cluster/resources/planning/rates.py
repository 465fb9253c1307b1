"""How fast this hardware really goes: assumed shares of its data sheet, or what a calibration measured and wrote down."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from cluster.resources.planning.hardware import Cluster
from configs.exits import ConfigError, DataError
from configs.schema.resources import ResourceSettings

VERSION = 2
"""1 had one rate for AdamW wherever its states were, and did not keep what it was measured on."""
MOST_OCTAVES = 2.0
"""How far from the measured width the gain is believed to go on."""
_LEARN_SHARE, _SCORE_SHARE, _DECODE_SHARE, _BANDWIDTH_SHARE, LINK_SHARE = 0.4, 0.6, 0.4, 0.6, 0.7
_GPU_FIXED = {
    "pass_layer_seconds": 3e-4,
    "step_layer_seconds": 3e-5,
    "sequence_seconds": 1e-5,
    "update_seconds": 2e-2,
    "rollout_seconds": 0.05,
    "learn_seconds": 0.05,
    "publish_seconds": 0.1,
}
_CPU_FIXED = {
    "pass_layer_seconds": 5e-4,
    "step_layer_seconds": 3e-4,
    "sequence_seconds": 5e-5,
    "update_seconds": 1e-2,
    "rollout_seconds": 0.05,
    "learn_seconds": 0.05,
    "publish_seconds": 0.02,
}
_FILL, _LOAD, _CPU_LOAD, _CPU_ADAM = 2.0e9, 4.0e9, 9.0e8, 6.0e9
"""Bytes/s: of copying and checksumming a bucket, of an engine taking weights (on a CPU it packs them again: 390 MB took 0.3 to
0.55 s), of AdamW on a host with a few threads."""
_GLOO = 1.5e9
"""Bytes/s of one TCP connection under gloo; a node's network may be slower."""


@dataclass(frozen=True)
class Rates:
    """What one rank, scorer or engine reaches. FLOP/s, bytes/s and seconds."""

    learn_flops: float
    score_flops: float
    decode_flops: float
    decode_bytes: float
    """Weights and cache read by decoding."""
    pass_layer_seconds: float
    """Fixed cost of one layer in a forward pass; thrice with its backward pass."""
    step_layer_seconds: float
    """Fixed cost of one layer in one decoding step."""
    sequence_seconds: float
    """Of one sequence in one decoding step: sampler, log-probs, bookkeeping."""
    optimiser_bytes: float
    """Read and written by AdamW where the weights are."""
    host_optimiser_bytes: float
    """By AdamW in host memory (`resources.learner.offload`)."""
    collective_bytes: float
    """Among ranks. Of GPUs never measured: always the data sheet's, for the ranks that are asked."""
    fill_bytes: float
    """Buckets copied and checksummed at the sender."""
    hop_bytes: float
    """Of one connection of the broadcast's tree."""
    load_bytes: float
    """Weights taken by one engine."""
    update_seconds: float
    """Fixed cost of one gradient update of one model."""
    rollout_seconds: float
    learn_seconds: float
    publish_seconds: float
    """Fixed cost of a step's phases."""
    rollout_factor: float = 1.0
    learn_factor: float = 1.0
    publish_factor: float = 1.0
    """What a calibration found between its own steps and this model, over and above the rates."""
    measured_hidden: float = 0.0
    """Width of the model that the FLOP rates were measured on; 0: they hold for every width."""
    wide_gain: float = 1.0
    """How much faster a model of twice the width goes, in FLOP/s."""
    kind: str = ""
    """Of device that a calibration measured; nothing: assumed, for the resources that are asked."""
    dtype: str = ""
    decode_dtype: str = ""
    """Of the learner and of the engines that it measured."""
    ranks: int = 0
    """Of the learner that it measured."""
    source: str = "assumed"

    def for_resources(self, resources: ResourceSettings, cluster: Cluster) -> Rates:
        """The rates for other dtypes and numbers of ranks than were measured: by the ratio of the data sheet's peaks, its links."""
        if not self.kind:
            return self
        hardware = cluster.hardware
        learn = hardware.flops(resources.learner.dtype) / hardware.flops(self.dtype)
        decode = hardware.flops(resources.generators.dtype) / hardware.flops(self.decode_dtype)
        links = self.collective_bytes if hardware.is_cpu else _links(resources, cluster)
        return replace(
            self, learn_flops=learn * self.learn_flops, decode_flops=decode * self.decode_flops, collective_bytes=links
        )

    def at_width(self, hidden: int) -> Rates:
        """The rates for a model of another width: small matrices do not fill a core or a GPU."""
        if not self.measured_hidden or hidden == self.measured_hidden:
            return self
        octaves = min(max(math.log2(hidden / self.measured_hidden), -MOST_OCTAVES), MOST_OCTAVES)
        gain = self.wide_gain**octaves
        faster = {name: getattr(self, name) * gain for name in ("learn_flops", "score_flops", "decode_flops")}
        return replace(self, **faster)

    def to_document(self) -> dict[str, object]:
        """As JSON."""
        return {"version": VERSION, **asdict(self)}


def _links(resources: ResourceSettings, cluster: Cluster) -> float:
    """Bytes/s among ranks: the node's own links, or its network where they do not fit one node."""
    hardware = cluster.hardware
    link = min(hardware.link, math.inf if resources.learner.ranks <= cluster.per_node else hardware.network)
    return LINK_SHARE * link


def assumed_rates(resources: ResourceSettings, cluster: Cluster) -> Rates:
    """Shares of the data sheet that are usual, for roles of these dtypes and threads."""
    hardware, learner = cluster.hardware, resources.learner
    cpu = hardware.is_cpu
    threads = {"learn": learner.threads, "score": resources.scorers.threads, "decode": resources.generators.threads}
    cores = {name: float(count) if cpu else 1.0 for name, count in threads.items()}
    fixed = _CPU_FIXED if cpu else _GPU_FIXED
    return Rates(
        learn_flops=_LEARN_SHARE * hardware.flops(learner.dtype) * cores["learn"],
        score_flops=_SCORE_SHARE * hardware.flops_float32 * cores["score"],
        decode_flops=_DECODE_SHARE * hardware.flops(resources.generators.dtype) * cores["decode"],
        decode_bytes=_BANDWIDTH_SHARE * hardware.bandwidth,
        optimiser_bytes=_BANDWIDTH_SHARE * hardware.bandwidth,
        host_optimiser_bytes=_CPU_ADAM,
        collective_bytes=_links(resources, cluster),
        fill_bytes=_FILL,
        hop_bytes=min(_GLOO, hardware.network),
        load_bytes=_CPU_LOAD if cpu else _LOAD,
        pass_layer_seconds=fixed["pass_layer_seconds"],
        step_layer_seconds=fixed["step_layer_seconds"],
        sequence_seconds=fixed["sequence_seconds"],
        update_seconds=fixed["update_seconds"],
        rollout_seconds=fixed["rollout_seconds"],
        learn_seconds=fixed["learn_seconds"],
        publish_seconds=fixed["publish_seconds"],
    )


def save_rates(rates: Rates, path: Path) -> None:
    """Write a calibration for later plans."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rates.to_document(), indent=1) + "\n", encoding="utf-8")


def load_rates(path: Path, kind: str) -> Rates:
    """Read what `save_rates` wrote.

    Args:
        kind: of device that the plan is for.

    Raises:
        DataError: no such file, or no calibration of this version. ConfigError: one of another kind.
    """
    again = "calibrate again (steelyard plan CONFIG --calibrate), or plan with --assumed"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no calibration can be read there ({error}); {again}") from error
    if not isinstance(document, dict) or document.pop("version", None) != VERSION:
        raise DataError(f"{path} is no calibration of version {VERSION}; {again}")
    types = {field.name: field.type for field in fields(Rates)}
    wrong = sorted(set(document) ^ set(types))
    wrong += [name for name, value in document.items() if name in types and not _is(types[name], value)]
    if wrong:
        raise DataError(f"{path}: the calibration's {wrong[0]} is missing, unknown or no number; {again}")
    rates = Rates(**document)
    if rates.kind != kind:
        raise ConfigError(
            f"--gpu: {kind} is asked for and {path} was measured on {rates.kind}; give --gpu {rates.kind}, the calibration of "
            f"{kind}, or --assumed"
        )
    return rates


def _is(annotation: object, value: object) -> bool:
    """Whether a value of the file is what its field wants; numbers are rates, seconds and counts."""
    if annotation == "str":
        return isinstance(value, str)
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0 and math.isfinite(value)


def usual_place(gpu: str, folder: Path) -> Path:
    """Where `--calibrate` leaves its file, and where later plans for the same kind look."""
    if not gpu.isalnum():
        raise ConfigError(f"--gpu: '{gpu}' cannot name a calibration")
    return folder / f"calibration-{gpu}.json"
