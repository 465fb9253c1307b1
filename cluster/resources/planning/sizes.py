"""How large a model is, from what its configuration says: parameters, bytes of its cache, FLOPs of a pass.

The family is Llama's: grouped-query attention, a gated MLP of three matrices, RMS norms, no biases. Other families of
the same widths come within a few per cent.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.resources.planning.hardware import named_models
from configs.exits import ConfigError, DataError
from configs.schema.run import RunSettings
from configs.schema.supervised import ModelSettings

_NAMED = re.compile(r"([0-9]+(?:\.[0-9]+)?)b")
_ASPECT, _MLP = 128, 2.6875
"""Width over depth, and MLP width over width, of the published Llamas (7B)."""
_KEYS = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "heads": ("num_attention_heads", "n_head", "num_heads"),
    "vocabulary": ("vocab_size",),
}


@dataclass(frozen=True)
class ModelShape:
    """A decoder's sizes."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    tied: bool
    """Whether embedding and output layer are one matrix."""

    @property
    def layer_parameters(self) -> int:
        """Of one block."""
        attention = 2 * self.hidden * self.head_size * (self.heads + self.kv_heads)
        return attention + 3 * self.hidden * self.intermediate + 2 * self.hidden

    @property
    def trunk_parameters(self) -> int:
        """Blocks, embedding and last norm: a score model or critic, but for its head of one row."""
        return self.layers * self.layer_parameters + self.vocabulary * self.hidden + self.hidden

    @property
    def parameters(self) -> int:
        """Of the policy."""
        return self.trunk_parameters + (0 if self.tied else self.vocabulary * self.hidden)

    def kv_bytes_per_token(self, dtype_bytes: int) -> int:
        """Keys and values of one token in every layer."""
        return 2 * self.layers * self.kv_heads * self.head_size * dtype_bytes

    def trunk_flops(self, tokens: float, context: float) -> float:
        """Of a forward pass: 2 per weight and token, and attention over `context` earlier tokens on average."""
        matrices = self.layer_parameters - 2 * self.hidden
        return tokens * self.layers * (2 * matrices + 4 * context * self.heads * self.head_size)

    def logit_flops(self, positions: float) -> float:
        """Of the output layer at so many positions."""
        return 2.0 * self.vocabulary * self.hidden * positions

    def activation_bytes(self, tokens: float, dtype_bytes: int, *, checkpointed: bool = False) -> float:
        """What a forward pass keeps for its backward pass, without the logits.

        Per token and layer, as Korthikanti et al. (arXiv 2205.05198) count it for GPT: two norms keep their input in
        float32 and its normalised form and product in the dtype; attention its queries, keys, values and result; the MLP
        gate, its SiLU, up and their product. Checkpointed, every layer keeps its input and one layer is whole.
        """
        norms = 2 * self.hidden * (4 + 2 * dtype_bytes)
        attention = dtype_bytes * self.head_size * 2 * (self.heads + self.kv_heads)
        mlp = 4 * dtype_bytes * self.intermediate
        layer = norms + attention + mlp
        if checkpointed:
            return tokens * (self.layers * dtype_bytes * self.hidden + layer)
        return tokens * self.layers * layer

    def describe(self) -> str:
        """``6.74B parameters (32 layers of 4096)``."""
        return f"{count(self.parameters)} parameters ({self.layers} layers of {self.hidden})"


def count(number: float) -> str:
    """``6.74B``, ``0.77M``."""
    return f"{number / 1e9:.2f}B" if number >= 1e9 else f"{number / 1e6:.2f}M"


def named_shape(name: str) -> ModelShape:
    """A published size such as ``7b``, or a Llama of about so many parameters.

    Raises:
        ConfigError: neither.
    """
    name = name.strip().lower()
    if name in named_models():
        return ModelShape(**{key: value for key, value in named_models()[name].items() if key != "source"})
    match = _NAMED.fullmatch(name)
    if match is None or not 0 < float(match[1]) <= 2000:
        raise ConfigError(
            f"--params: '{name}' is no size; write one such as 7b ({', '.join(named_models())} are exact)"
        )
    target_parameters = float(match[1]) * 1e9
    hidden = 128 * max(1, round((target_parameters * _ASPECT / (4 + 3 * _MLP)) ** (1 / 3) / 128))
    return ModelShape(
        layers=max(1, hidden // _ASPECT),
        hidden=hidden,
        heads=max(1, hidden // 128),
        kv_heads=max(1, hidden // 128),
        head_size=128,
        intermediate=round(_MLP * hidden),
        vocabulary=32000,
        tied=False,
    )


def scratch_shape(settings: ModelSettings, vocabulary: int) -> ModelShape:
    """The model that a run trains from scratch: `learner.models.modules.new_policy`."""
    return ModelShape(
        layers=settings.layers,
        hidden=settings.hidden_size,
        heads=settings.heads,
        kv_heads=settings.heads,
        head_size=settings.hidden_size // settings.heads,
        intermediate=settings.intermediate_size,
        vocabulary=vocabulary,
        tied=True,
    )


def pretrained_shape(settings: ModelSettings) -> ModelShape:
    """The sizes in the ``config.json`` of ``model.path``, a folder or a name on the hub.

    Raises:
        ConfigError, DataError: there is none, or it does not say its sizes.
    """
    assert settings.path is not None
    folder = Path(settings.path).expanduser()
    file = folder / "config.json" if folder.is_dir() else _from_hub(settings.path, settings.revision)
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"model.path: {file} cannot be read ({error}); give the size with --params 7b") from error
    return _from_document(document, str(settings.path))


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(hf_hub_download(name, "config.json", revision=revision))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, HFValidationError, OSError) as error:
        raise DataError(
            f"model.path: the sizes of {name} cannot be read from the hub ({type(error).__name__}); "
            "give them with --params, such as --params 7b"
        ) from error


def _from_document(document: dict[str, Any], name: str) -> ModelShape:
    inner = document.get("text_config")
    config = {**document, **(inner if isinstance(inner, dict) else {})}
    sizes: dict[str, int] = {}
    for key, names in _KEYS.items():
        value = next((config[key_name] for key_name in names if isinstance(config.get(key_name), int)), None)
        if value is None or value < 1:
            raise DataError(f"model.path: the config.json of {name} has no {names[0]}; give the size with --params 7b")
        sizes[key] = value
    intermediate = config.get("intermediate_size") or config.get("n_inner") or 4 * sizes["hidden"]
    return ModelShape(
        **sizes,
        kv_heads=int(config.get("num_key_value_heads") or sizes["heads"]),
        head_size=int(config.get("head_dim") or sizes["hidden"] // sizes["heads"]),
        intermediate=int(intermediate),
        tied=bool(config.get("tie_word_embeddings", False)),
    )


def shape_of(settings: RunSettings, params: str | None) -> ModelShape:
    """The model's sizes: as given, from ``model.path``, or of the one that is made from scratch.

    Raises:
        ConfigError, DataError: they cannot be had.
    """
    from cluster.resources.planning.sizes import named_shape, pretrained_shape, scratch_shape

    if params is not None:
        return named_shape(params)
    if settings.model.path is not None:
        return pretrained_shape(settings.model)
    if settings.data is not None:
        return scratch_shape(settings.model, settings.model.vocab_size)
    from actors.crowd.vocabulary import world_words
    from cluster.inputs.world_checks import check_against_world

    special = 6  # of `learner.data.tokenizer.SPECIAL_TOKENS`, which is not read here: it would import transformers
    return scratch_shape(settings.model, len(set(world_words(check_against_world(settings)))) + special)
