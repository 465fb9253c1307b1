"""Reward and cost models as folders: our own layout, others' layouts, the papers' released models.

A new layout brings a reader that gives scores on the product's scale, and refuses every tensor that it does not know by name.
"""
