"""What produces and judges experience: vLLM generators, scorers, the simulated crowd."""
