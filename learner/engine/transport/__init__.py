"""How the policy's weights get from learner rank 0 to the generators."""
