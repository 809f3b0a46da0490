"""The inference function as a file that runs without this package.

The function takes images as bytes, (batch, height, width, 3) uint8 in RGB, resized and cropped
as `pp` in the JSON beside it says; it normalises them and returns logits (batch, classes) in
float32. Batches of any size; the weights are inside.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from vit_jax import models
from vit_jax.checkpoint.convert.change import Published
from vit_jax.errors import InputError

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
# The size of one protocol buffer, in which StableHLO keeps constants.
MAX_BYTES = 2**31


def inference(published: Published) -> Callable[[jax.Array], jax.Array]:
    """images (B, H, W, 3) uint8 -> logits (B, K), as a JAX function."""
    from vit_jax.data import parse

    pp = parse(published.pp)
    mean, std = jnp.array(pp.mean, jnp.float32), jnp.array(pp.std, jnp.float32)
    params = jax.tree.map(jnp.asarray, published.params)
    graphdef, _ = models.abstract(lambda rngs: models.build_model(published.config, rngs))

    def logits(images: jax.Array) -> jax.Array:
        images = (images.astype(jnp.float32) / 255.0 - mean) / std
        return models.merge(graphdef, params)(images)

    return logits


def stablehlo(published: Published, path: Path) -> None:
    """Writes what `jax.export.deserialize(bytes).call(images)` runs, on any of PLATFORMS.

    Raises:
      InputError: the weights are too many for the format.
    """
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(published.params))
    if size >= MAX_BYTES:
        raise InputError(
            f"{path}: StableHLO holds less than 2 GiB, these weights take {size / 2**30:.1f}; "
            "write them as .npz or safetensors"
        )
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *published.config.image_size, 3), jnp.uint8)
    exported = jax.export.export(jax.jit(inference(published)), platforms=PLATFORMS)(images)
    path.write_bytes(exported.serialize())


def savedmodel(published: Published, path: Path) -> None:
    """Writes a TensorFlow SavedModel whose default signature maps `images` to `logits`.

    Beside vit_jax.data the only user of TensorFlow, whose own format this is.
    """
    tf, jax2tf = _tensorflow()
    function = jax2tf.convert(
        inference(published),
        polymorphic_shapes=["(batch, ...)"],
        with_gradient=False,
        native_serialization_platforms=("cpu", "cuda", "tpu"),
    )
    spec = tf.TensorSpec((None, *published.config.image_size, 3), tf.uint8, name="images")

    @tf.function(autograph=False, input_signature=[spec])
    def serve(images):
        return {"logits": function(images)}

    module = tf.Module()
    module.serve = serve
    tf.saved_model.save(module, str(path), signatures={"serving_default": serve})


def _tensorflow() -> tuple[Any, Any]:
    try:
        import tensorflow as tf
        from jax.experimental import jax2tf
    except ImportError as error:
        raise InputError(f"a SavedModel needs TensorFlow: {error}; write .stablehlo") from error
    return tf, jax2tf
