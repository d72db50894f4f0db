"""Kinds of block: a kind owns its weights, its state, its forward pass and so its saved tensors."""
