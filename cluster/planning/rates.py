"""How fast this hardware really goes: assumed shares of its data sheet, or what a calibration measured and wrote down."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from cluster.planning.hardware import Cluster
from configs.exits import ConfigError, DataError
from configs.schema.resources import ResourceSettings

VERSION = 1
MOST_OCTAVES = 2.0
"""How far from the measured width the gain is believed to go on."""
_LEARN_SHARE, _SCORE_SHARE, _DECODE_SHARE, _BANDWIDTH_SHARE, LINK_SHARE = 0.4, 0.6, 0.4, 0.6, 0.7
_GPU_FIXED = {
    "pass_layer_seconds": 3e-4, "step_layer_seconds": 3e-5, "sequence_seconds": 1e-5, "update_seconds": 2e-2,
    "rollout_seconds": 0.05, "learn_seconds": 0.05, "publish_seconds": 0.1,
}  # fmt: skip
_CPU_FIXED = {
    "pass_layer_seconds": 5e-4, "step_layer_seconds": 3e-4, "sequence_seconds": 5e-5, "update_seconds": 1e-2,
    "rollout_seconds": 0.05, "learn_seconds": 0.05, "publish_seconds": 0.02,
}  # fmt: skip
_FILL, _LOAD, _CPU_LOAD, _CPU_ADAM = 2.0e9, 4.0e9, 9.0e8, 6.0e9
"""Bytes/s: of copying and checksumming a bucket, of an engine taking weights (on a CPU it packs them anew: 390 MB took 0.3 to
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
    collective_bytes: float
    """Among ranks."""
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
    source: str = "assumed"

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


def assumed_rates(resources: ResourceSettings, cluster: Cluster) -> Rates:
    """Shares of the data sheet that are usual, for roles of these dtypes and threads."""
    hardware, learner = cluster.hardware, resources.learner
    cpu = hardware.is_cpu
    link = min(hardware.link, math.inf if learner.ranks <= cluster.per_node else hardware.network)
    threads = {"learn": learner.threads, "score": resources.scorers.threads, "decode": resources.generators.threads}
    cores = {name: float(one) if cpu else 1.0 for name, one in threads.items()}
    optimiser = _CPU_ADAM if learner.offload else _BANDWIDTH_SHARE * hardware.bandwidth
    fixed = _CPU_FIXED if cpu else _GPU_FIXED
    return Rates(
        learn_flops=_LEARN_SHARE * hardware.flops(learner.dtype) * cores["learn"],
        score_flops=_SCORE_SHARE * hardware.flops_float32 * cores["score"],
        decode_flops=_DECODE_SHARE * hardware.flops(resources.generators.dtype) * cores["decode"],
        decode_bytes=_BANDWIDTH_SHARE * hardware.bandwidth,
        optimiser_bytes=optimiser,
        collective_bytes=LINK_SHARE * link,
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


def load_rates(path: Path) -> Rates:
    """Read what `save_rates` wrote.

    Raises:
        DataError: no such file, or no calibration of this version.
    """
    again = "calibrate again: steelyard plan CONFIG --calibrate"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no calibration can be read there ({error}); {again}") from error
    if not isinstance(document, dict) or document.pop("version", None) != VERSION:
        raise DataError(f"{path} is no calibration of version {VERSION}; {again}")
    kinds = {one.name: one.type for one in fields(Rates)}
    wrong = sorted(set(document) ^ set(kinds))
    wrong += [
        name
        for name, value in document.items()
        if kinds.get(name) == "float" and not (isinstance(value, (int, float)) and value >= 0 and math.isfinite(value))
    ]
    if wrong:
        raise DataError(f"{path}: the calibration's {wrong[0]} is missing, unknown or no number; {again}")
    return Rates(**document)


def usual_place(gpu: str, folder: Path) -> Path:
    """Where `--calibrate` leaves its file, and where later plans for the same kind look."""
    if not gpu.isalnum():
        raise ConfigError(f"--gpu: '{gpu}' cannot name a calibration")
    return folder / f"calibration-{gpu}.json"
