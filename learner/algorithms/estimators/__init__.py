"""From terminal scores to the advantage that the policy's loss uses: one file per algorithm of the loop."""
