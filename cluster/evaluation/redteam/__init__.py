"""The red team on real engines: which models are attacked, the vLLM victim, and one search for a round."""
