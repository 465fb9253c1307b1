"""The stages of a run, one file each: sft → pairs → preferences → reward model + cost models → PPO-Lag → evaluate."""
