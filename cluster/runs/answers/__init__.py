"""Answers of a model to prompts, drawn by warm engines and handed to whoever judges them."""
