import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from learner.statistics.out_of_distribution import MahalanobisDetector, auroc, prompt_features


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=1, intermediate_size=48)
    ).eval()


def test_features_are_means_over_a_prompts_own_tokens_whatever_it_is_batched_with(model):
    prompts = [[3, 4, 5], [7], [9, 10, 11, 12, 13, 14]]
    together = prompt_features(model, prompts)
    assert together.shape == (2, 3, 32) and together.dtype == np.float64
    for index, prompt in enumerate(prompts):
        states = model(torch.tensor([prompt]), output_hidden_states=True).hidden_states[1:]
        alone = np.stack([layer[0].double().mean(dim=0).detach().numpy() for layer in states])
        np.testing.assert_allclose(together[:, index], alone, atol=1e-5)


def test_a_prompt_without_tokens_is_refused(model):
    with pytest.raises(ValueError, match="without tokens"):
        prompt_features(model, [[1], []])


def test_the_distance_is_mahalanobis_with_the_shrunken_covariance_averaged_over_layers():
    rng = np.random.default_rng(0)
    known = rng.normal(size=(2, 4000, 3)) * np.array([1.0, 2.0, 0.5])
    detector = MahalanobisDetector.fit(known)
    one_spread_away = np.array([[[0.0, 2.0, 0.0]], [[0.0, 4.0, 0.0]]])  # one spread in layer 0, two in layer 1
    assert detector.distances(one_spread_away)[0] == pytest.approx(1.5, rel=0.05)


def test_what_is_like_the_known_is_near_and_what_is_not_is_far():
    rng = np.random.default_rng(1)
    detector = MahalanobisDetector.fit(rng.normal(size=(3, 500, 8)))
    usual, unusual = rng.normal(size=(3, 300, 8)), rng.normal(loc=1.0, size=(3, 300, 8))
    assert auroc(detector.distances(usual), detector.distances(unusual)) > 0.95
    assert auroc(detector.distances(usual), detector.distances(rng.normal(size=(3, 300, 8)))) == pytest.approx(
        0.5, abs=0.08
    )


def test_auroc_counts_ties_half():
    assert auroc(np.array([1.0, 2.0]), np.array([2.0, 3.0])) == pytest.approx((0.5 + 1 + 1 + 1) / 4)
