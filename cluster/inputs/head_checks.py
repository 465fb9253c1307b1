"""Whether the engine can serve the model's attention heads: it says so only when it starts, hours after the run did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from configs.exits import ConfigError
from configs.load import with_arms
from configs.schema.run import RunSettings

CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""Of vLLM's attention on CPUs (vllm/v1/attention/backends/cpu_attn.py, 0.32)."""


def check_head_sizes(settings: RunSettings) -> None:
    """Refuse a model whose heads the CPU edition of the engine cannot serve, of the run and of each arm.

    A model on the hub is looked at when it has been fetched, and generators on GPUs know more sizes.

    Raises:
        ConfigError: the size there is, and the sizes there may be.
    """
    for prefix, variant in with_arms(settings):
        if variant.resources.generators.gpus:
            continue
        key, size = _head_size(variant)
        if size is not None and size not in CPU_HEAD_SIZES:
            sizes = ", ".join(map(str, CPU_HEAD_SIZES))
            raise ConfigError(f"{prefix}{key}: attention heads of size {size}, and generators on CPUs serve {sizes}")


def _head_size(settings: RunSettings) -> tuple[str, int | None]:
    if settings.model.path is None:
        return "model.heads", settings.model.hidden_size // settings.model.heads
    config = Path(settings.model.path).expanduser() / "config.json"
    if not config.is_file():
        return "model.path", None
    try:
        document: dict[str, Any] = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "model.path", None  # said where the model is prepared
    heads, hidden = document.get("num_attention_heads"), document.get("hidden_size")
    declared = document.get("head_dim")
    if isinstance(declared, int):
        return "model.path", declared
    if not (isinstance(heads, int) and isinstance(hidden, int) and heads > 0):
        return "model.path", None
    return "model.path", hidden // heads
