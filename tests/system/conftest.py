"""A real Ray of this test session, and a family of tiny untrained models."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray

WORDS = tuple(f"word{index}" for index in range(150))
MAX_LENGTH = 128


STARTS = 3
"""Ray gives its own node 30 s to come up, which a busy machine may miss."""


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Ray on this machine, started for the session in its own folder and ended with it; namespace `steelyard`."""
    if ray.is_initialized():
        yield
        return
    # Ray's sockets live in this folder and their paths must stay under 108 characters, so no pytest tmp_path.
    with tempfile.TemporaryDirectory(prefix="sy-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        _start_ray(Path(folder))
        yield
        ray.shutdown()


def _start_ray(folder: Path) -> None:
    for attempt in range(1, STARTS + 1):
        try:
            ray.init(
                num_cpus=8,
                include_dashboard=False,
                _temp_dir=str(folder / str(attempt)),
                namespace="steelyard",
                object_store_memory=200 * 2**20,
                log_to_driver=False,
                runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}},
            )
        except Exception as error:
            ray.shutdown()
            if attempt == STARTS or "timed out during startup" not in str(error):
                raise
        else:
            return


@dataclass(frozen=True)
class TinyModels:
    """Hugging Face folders, each with the tokenizer; two policies of different weights."""

    policy: Path
    other_policy: Path
    reward: Path
    cost: Path
    tokenizer: Path


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    """Untrained models of hidden size 64, 2 layers and head size 32, with scores and logits spread out enough to tell apart."""
    import torch
    from torch import nn

    from configs.schema.supervised import ModelSettings
    from learner.models.modules import build_tokenizer, load_score_model, new_policy, new_score_model_from, save_model

    root = tmp_path_factory.mktemp("models")
    settings = ModelSettings(hidden_size=64, layers=2, heads=2, intermediate_size=128, max_length=MAX_LENGTH)
    tokenizer = build_tokenizer(WORDS, MAX_LENGTH)
    for seed, name in enumerate(("policy", "other_policy")):
        model = new_policy(settings, tokenizer, seed)
        with torch.no_grad():  # an untrained model's logits are nearly equal: spread them out
            model.get_input_embeddings().weight.mul_(8.0)
        save_model(model, tokenizer, root / name)
    for seed, name in enumerate(("reward", "cost")):
        score = new_score_model_from(root / "policy")
        torch.manual_seed(100 + seed)
        nn.init.normal_(score.score.weight, std=0.5)
        save_model(score, tokenizer, root / name)
        load_score_model(root / name, "float32")
    return TinyModels(root / "policy", root / "other_policy", root / "reward", root / "cost", root / "policy")
