"""Networks: policies, score models and critics, from scratch or pretrained, by family."""
