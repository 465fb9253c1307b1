"""The loop of rollout, scoring, learning and publishing, and what is watched at each step."""
