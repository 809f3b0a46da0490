"""Exports the inference function as a file that runs without this package.

The function takes images as bytes, (batch, height, width, 3) uint8 in RGB, resized and cropped
as `pp` in the JSON beside it says; it normalises them and returns logits (batch, classes) in
float32. Batches of any size; the weights are inside.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax.extend.mlir.dialects import stablehlo as dialect

from vit_jax import models
from vit_jax.errors import InputError
from vit_jax.models.naflex import model_inputs
from vit_jax.text import first_line
from vit_jax.weights.description import own_description, sidecar
from vit_jax.weights.record import Weights
from vit_jax.weights.write import save_json, weight_format

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
# The size of one protocol buffer, in which StableHLO keeps constants.
MAX_BYTES = 2**31
# TensorFlow's releases are rarer than JAX's and read no operations newer than themselves: the
# program is written as of a version that all of them since 2.17 read.
TENSORFLOW_STABLEHLO = "1.0.0"
TENSORFLOW_PLATFORMS = ("cpu", "cuda", "tpu")


def inference(weights: Weights) -> Callable[[Any, jax.Array], jax.Array]:
    """(params, images (B, H, W, 3) uint8) -> logits (B, K), as a JAX function."""
    from vit_jax.data import parse

    pp = parse(weights.pp)
    graphdef, _ = models.abstract(lambda rngs: models.build_model(weights.config, rngs))

    def logits(params: Any, images: jax.Array) -> jax.Array:
        return models.merge(graphdef, params)(model_inputs(images, weights.config, pp.mean, pp.std))

    return logits


def _any_batch(weights: Weights) -> jax.ShapeDtypeStruct:
    (batch,) = jax.export.symbolic_shape("batch")
    return jax.ShapeDtypeStruct((batch, *weights.config.input_size, 3), jnp.uint8)


def _on_host(weights: Weights) -> Any:
    """The parameters as NumPy arrays: those of a checkpoint would put their sharding into the
    program, which other readers do not understand."""
    return jax.tree.map(np.asarray, weights.params)


def stablehlo(weights: Weights, path: Path) -> None:
    """Writes a program for `jax.export.deserialize(bytes).call(images)`, for all PLATFORMS.

    Raises:
      InputError: the weights are too large for the format.
    """
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(weights.params))
    if size >= MAX_BYTES:
        raise InputError(
            f"{path}: StableHLO holds less than 2 GiB, these weights take {size / 2**30:.1f}; "
            "write them as .npz or safetensors"
        )
    params = _on_host(weights)
    function = jax.jit(functools.partial(inference(weights), params))
    exported = jax.export.export(function, platforms=PLATFORMS)(_any_batch(weights))
    path.write_bytes(exported.serialize())


def savedmodel(weights: Weights, path: Path) -> None:
    """Writes a TensorFlow SavedModel whose default signature maps `images` to `logits`.

    Its program is StableHLO, its weights are variables. Needs TensorFlow.

    Raises:
      InputError: TensorFlow is not installed.
    """
    tf, xla = _tensorflow()
    images = _any_batch(weights)
    function = jax.jit(inference(weights))
    params = _on_host(weights)
    exported = jax.export.export(function, platforms=TENSORFLOW_PLATFORMS)(params, images)
    module = tf.Module()
    module.params = [tf.Variable(leaf) for leaf in jax.tree.leaves(params)]
    operation = functools.partial(
        xla.call_module,
        version=exported.calling_convention_version,
        module=_as_of(TENSORFLOW_STABLEHLO, exported.mlir_module_serialized),
        Sout=[(None, *exported.out_avals[0].shape[1:])],
        Tout=[tf.float32],
        platforms=[platform.upper() for platform in TENSORFLOW_PLATFORMS],
    )

    @tf.function(
        autograph=False, input_signature=[tf.TensorSpec((None, *images.shape[1:]), tf.uint8)]
    )
    def serve(images):
        arguments = [*module.params, images]
        kept = [tf.convert_to_tensor(arguments[i]) for i in exported.module_kept_var_idx]
        return {"logits": operation(args=kept)[0]}

    module.serve = serve
    try:
        tf.saved_model.save(module, str(path), signatures={"serving_default": serve})
    except tf.errors.OpError as error:  # of a full disk, for example
        raise OSError(first_line(error)) from error


def _as_of(version: str, program: bytes) -> bytes:
    """A serialised StableHLO program, converted to an earlier version of StableHLO."""
    return dialect.serialize_portable_artifact_str(
        dialect.deserialize_portable_artifact_str(program), version
    )


def _tensorflow() -> tuple[Any, Any]:
    """The modules tensorflow and xla, whose call_module runs a compiled program."""
    try:
        import tensorflow as tf
        from tensorflow.compiler.tf2xla.python import xla
    except ImportError as error:
        raise InputError(f"a SavedModel needs TensorFlow: {error}; write .stablehlo") from error
    return tf, xla


@weight_format("stablehlo", ".stablehlo")
def write_stablehlo(weights: Weights, path: Path) -> list[str]:
    """Writes the program and a sidecar."""
    stablehlo(weights, path)
    return [f"wrote {path}", *save_json({sidecar(path): own_description(weights)})]


@weight_format("savedmodel", "")
def write_savedmodel(weights: Weights, path: Path) -> list[str]:
    """Writes a directory with the program and vit_jax.json."""
    savedmodel(weights, path)
    return [f"wrote {path}", *save_json({path / "vit_jax.json": own_description(weights)})]
