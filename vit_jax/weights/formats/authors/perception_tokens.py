"""The Perception Encoder for language and for dense prediction: neither pooling nor last norm.

These files are tried after those of open_clip, which have the same names and more.
"""

from vit_jax.weights.formats.authors.perception_encoder import add

add("Perception Encoder without pooling", "conv1.weight", "ln_pre.weight")
