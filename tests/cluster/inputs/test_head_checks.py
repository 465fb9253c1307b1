"""A head size that the engine cannot serve is refused before anything runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.inputs.head_checks import CPU_HEAD_SIZES, check_head_sizes
from configs.exits import ConfigError
from configs.load import load_settings
from tests.cluster.on_data import config_in


def test_the_sizes_are_the_engines_own() -> None:
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    assert tuple(CPUAttentionBackend.get_supported_head_sizes()) == CPU_HEAD_SIZES


def test_a_model_from_scratch_and_an_arm_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.heads: attention heads of size 4, .* serve 32, 64"):
        check_head_sizes(load_settings("quickstart", ["model.hidden_size=64", "model.heads=16"]))
    check_head_sizes(
        load_settings("quickstart", ["model.hidden_size=64", "model.heads=16", "resources.generators.gpus=1"])
    )


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ({"hidden_size": 16, "num_attention_heads": 4}, 4),
        ({"hidden_size": 64, "num_attention_heads": 2, "head_dim": 48}, 48),
        ({"hidden_size": 64, "num_attention_heads": 2}, None),
        ({"n_embd": 64}, None),
    ],
)
def test_a_given_models_heads_are_read_from_its_configuration(
    tmp_path: Path, config: dict[str, int], size: int | None
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    settings = load_settings(config_in(tmp_path), [f"model.path={folder}"])
    if size is None:
        check_head_sizes(settings)
    else:
        with pytest.raises(ConfigError, match=rf"model\.path: attention heads of size {size}"):
            check_head_sizes(settings)
