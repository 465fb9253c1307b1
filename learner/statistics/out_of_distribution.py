"""Telling unusual prompts from usual ones by a model's own activations: Mahalanobis distance from prompts that are known.

After Bai et al. 2022 (section 5.4), who rejected most harmful requests by their distance from helpful ones: a vector per
layer, the mean over the prompt's tokens; a Gaussian per layer from known prompts; the score is the distance, averaged over
layers. The covariance is Ledoit and Wolf's (2004), since there may be fewer prompts than dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from transformers import PreTrainedModel

BATCH = 64


def prompt_features(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> np.ndarray:
    """Float64 ``[layers, n, width]``: the mean over a prompt's tokens of the hidden states after every block.

    Args:
        prompts: token ids of whole prompts, at least one in each.

    Raises:
        ValueError: a prompt is empty.
    """
    if not all(len(prompt) for prompt in prompts):
        raise ValueError("a prompt without tokens has no features")
    parts = [_features(model, prompts[start : start + BATCH]) for start in range(0, len(prompts), BATCH)]
    return np.concatenate(parts, axis=1)


@torch.no_grad()
def _features(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> np.ndarray:
    longest = max(map(len, prompts))
    ids = torch.zeros((len(prompts), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):  # padded on the right: a causal model's earlier states do not see it
        ids[row, : len(prompt)] = torch.tensor(list(prompt))
        mask[row, : len(prompt)] = 1
    hidden_states = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False).hidden_states[
        1:
    ]
    weights = (mask / mask.sum(dim=1, keepdim=True)).to(torch.float64)
    return np.stack([torch.einsum("nt,ntd->nd", weights, layer.to(torch.float64)).numpy() for layer in hidden_states])


@dataclass(frozen=True)
class MahalanobisDetector:
    """A Gaussian per layer around known prompts."""

    means: np.ndarray
    """``[layers, width]``."""
    precisions: np.ndarray
    """``[layers, width, width]``."""

    @classmethod
    def fit(cls, features: np.ndarray) -> MahalanobisDetector:
        """From the features ``[layers, n, width]`` of known prompts; n of two or more."""
        fitted = [LedoitWolf().fit(layer) for layer in features]
        return cls(
            np.stack([covariance.location_ for covariance in fitted]),
            np.stack([covariance.precision_ for covariance in fitted]),
        )

    def distances(self, features: np.ndarray) -> np.ndarray:
        """``[n]``: the distance from the known prompts, averaged over layers; larger is stranger."""
        apart = features - self.means[:, None, :]
        squared = np.einsum("lnd,lde,lne->ln", apart, self.precisions, apart)
        return np.asarray(np.sqrt(np.maximum(squared, 0.0)).mean(axis=0))


def auroc(usual: np.ndarray, unusual: np.ndarray) -> float:
    """Chance that an unusual prompt is farther than a usual one, ties half: area under the ROC curve."""
    labels = np.concatenate([np.zeros(usual.size), np.ones(unusual.size)])
    return float(roc_auc_score(labels, np.concatenate([usual, unusual])))
