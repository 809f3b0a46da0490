"""Pixels as tokens: iGPT (Chen et al. 2020)."""
