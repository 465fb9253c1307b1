"""Where and when it runs: commands, stages, the loop, the local head, deployment files."""
