"""Directories of transformers: a file per family, with its table, its JSON and its writer."""

from vit_jax.weights.formats.huggingface import aimv2, beit, clip, dinov3, imagegpt, siglip, vit

__all__ = ["aimv2", "beit", "clip", "dinov3", "imagegpt", "siglip", "vit"]
