"""How the policy's weights get from learner rank 0 to the generators.

A new transport brings the sender's side next to `gloo` and the receiver's in `actors.generation.weight_receiver`: it sends the
buckets of `plan.BucketPlan` in order with their version, and a receiver that misses one keeps its old weights.
"""
