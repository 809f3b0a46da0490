"""Files as the authors of a model published them, where their names are no library's."""

from vit_jax.weights.formats.authors import aimv2, dinov3, eva02, mae, perception_encoder

__all__ = ["aimv2", "dinov3", "eva02", "mae", "perception_encoder"]
