"""Attention that never holds all pairs of tokens at once, for long sequences."""
