"""Layers that every model shares: dense, layer norm, dropout, the batch constraint."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike

from vit_jax.models.attention.sequence import sequence_shards
from vit_jax.models.forms.linear import linear
from vit_jax.models.forms.platform import on_tpu
from vit_jax.models.forms.remat import saved
from vit_jax.parallel.axes import BATCH_AXES, SEQUENCE_AXIS
from vit_jax.registry import Registry

DTYPES = ("float32", "bfloat16")

zeros = nnx.initializers.zeros_init()
ones = nnx.initializers.ones_init()


def shard_batch(x: jax.Array, *, whole: bool = True) -> jax.Array:
    """Constrains axis 0 to the batch axes of the mesh in use; without a mesh, the identity.

    Tokens (B, N, D) are also split over the axis `sequence`, if it divides them.

    One constraint per block keeps XLA from replicating activations when
    parameters are sharded over the same axis as the batch. Inside pmap and
    shard_map the batch is already cut: their axes cannot be constrained.

    Args:
      x: (B, ...).
      whole: whether all other axes stay whole; False leaves that to XLA, as inside a block's
        branch, which tensor parallelism splits.
    """
    automatic = jax.sharding.get_abstract_mesh().auto_axes
    axes = tuple(axis for axis in BATCH_AXES if axis in automatic)
    if not axes:
        return x
    other = None if whole else PartitionSpec.UNCONSTRAINED
    spec = PartitionSpec(axes, *[other] * (x.ndim - 1))
    if whole and x.ndim == 3 and sequence_shards() > 1 and x.shape[1] % sequence_shards() == 0:
        spec = PartitionSpec(axes, SEQUENCE_AXIS, None)
    return lax.with_sharding_constraint(x, spec)


def normalize_pixels(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Pixels 0 to 255 (B, H, W, 3) -> float32 (x / 255 - mean) / std."""
    scaled = images.astype(jnp.float32) / 255.0
    return (scaled - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)


def fold_in(keys: jax.Array | None, site: int | jax.Array) -> jax.Array | None:
    """A new key per example for one site of the network; None stays None."""
    return None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, site)


def dropout(x: jax.Array, rate: float, keys: jax.Array | None, *, store: bool = True) -> jax.Array:
    """Zeroes elements with probability `rate` and scales the rest by 1 / (1 - rate).

    Args:
      x: (B, ...).
      rate: static probability.
      keys: (B,) one key per example, so that the dropped elements depend neither on
        the mesh nor on how a batch is cut; None: evaluation, no dropout.
      store: whether remat policy `names` keeps what is dropped; False: it is drawn twice.
    """
    if keys is None or rate == 0.0:
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, x.shape[1:]))(keys)
    keep = saved(keep, "kept") if store else keep
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))


def drop_path(x: jax.Array, rate: jax.Array, keys: jax.Array | None) -> jax.Array:
    """Stochastic depth (1603.09382): drops a residual branch per example.

    Args:
      x: (B, ...) a residual branch.
      rate: traced probability, which may differ between scanned blocks.
      keys: (B,) one key per example; None: evaluation.
    """
    if keys is None:
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate))(keys)
    keep = keep.reshape(-1, *[1] * (x.ndim - 1))
    return jnp.where(keep, x / (1.0 - rate).astype(x.dtype), jnp.zeros_like(x))


def kept_tokens(keys: jax.Array, prefix: int, patches: int, kept: int) -> jax.Array:
    """Draws the tokens that patch dropout keeps (FLIP, 2212.00794): all before the patches, and
    for each example `kept` of its `patches` patches, any of them with the same probability.

    Args:
      keys: (B,) one key per example.
      prefix: number of tokens before the patches.
      patches: number of patches.
      kept: number of patches to keep.

    Returns:
      Places of the tokens, int32 (B, prefix + kept), ascending.
    """
    drawn = jax.vmap(lambda key: jax.random.permutation(key, patches)[:kept])(keys)
    own = jnp.broadcast_to(jnp.arange(prefix), (len(drawn), prefix))
    return jnp.concatenate([own, prefix + jnp.sort(drawn, axis=1)], axis=1)


def take_tokens(x: jax.Array, kept: jax.Array) -> jax.Array:
    """The tokens (B, n, ...) of x (B, N, ...) at the places `kept` (B, n)."""
    return jax.vmap(lambda tokens, places: tokens[places])(x, kept)


def unstack(x: jax.Array, axis: int) -> list[jax.Array]:
    """The slices of x along a short axis, without that axis.

    The gradients of the slices are concatenated. With indexing, each would be padded to the
    shape of x, and all added up.
    """
    return [part.squeeze(axis) for part in lax.split(x, (1,) * x.shape[axis], axis)]


class Dense(nnx.Module):
    """y = x W + b over the trailing axes of x, in `dtype`, with float32 parameters.

    Leading axes are flattened before the product: XLA:CPU runs the weight
    gradient of a rank-3 product at half the speed of a rank-2 one. On TPUs they are not:
    memory there is in tiles of 8 rows, and flattening a number of tokens that is no
    multiple of 8 copies the array. The first
    leading axis is the batch, and the result is constrained to stay split along it.
    Otherwise XLA may communicate activations instead of a kernel sharded by fsdp,
    when a device has few examples.

    Args:
      inputs: trailing shape of x, which is contracted.
      outputs: trailing shape of y. The kernel has shape (*inputs, *outputs).
      bias: whether b is added.
      groups: the first `groups` output axes hold independent matrices, which
        Xavier initialisation treats one by one (query, key, value).
    """

    def __init__(
        self,
        inputs: Sequence[int],
        outputs: Sequence[int],
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        kernel_init: nnx.Initializer | None = None,
        bias: bool = True,
        bias_init: nnx.Initializer = zeros,
        groups: int = 0,
    ):
        inputs, outputs = tuple(inputs), tuple(outputs)
        kernel_init = kernel_init or xavier_uniform(len(inputs), groups)
        self.kernel = nnx.Param(kernel_init(rngs.params(), inputs + outputs, jnp.float32))
        if bias:
            self.bias = nnx.Param(bias_init(rngs.params(), outputs, jnp.float32))
        self.has_bias = bias
        self.num_inputs = len(inputs)
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.kernel[...].astype(self.dtype)
        bias = self.bias[...].astype(self.dtype) if self.has_bias else None
        return self._apply(x, kernel, bias)

    def parts(self, x: jax.Array) -> list[jax.Array]:
        """y in slices along its first output axis, as of queries, keys and values.

        On TPUs each is a product of its own: slicing y would copy it.
        """
        if not on_tpu():
            return unstack(self(x), x.ndim - self.num_inputs)
        kernel = unstack(self.kernel[...].astype(self.dtype), self.num_inputs)
        biases = self.bias[...].astype(self.dtype) if self.has_bias else [None] * len(kernel)
        return [self._apply(x, *own) for own in zip(kernel, biases)]

    def _apply(self, x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
        lead, x = x.shape[: -self.num_inputs], x.astype(self.dtype)
        if on_tpu():
            inputs = tuple(range(self.num_inputs))
            axes = tuple(len(lead) + axis for axis in inputs)
            y = lax.dot_general(x, kernel, ((axes, inputs), ((), ())))
            y = y if bias is None else y + bias
            return shard_batch(y, whole=False)
        kernel = kernel.reshape(-1, *kernel.shape[self.num_inputs :])
        x = x.reshape(*lead, len(kernel))
        if sequence_shards() > 1:  # one axis of batch and tokens could not be split over both
            y = lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))
        else:
            y = project(x.reshape(-1, len(kernel)), kernel)
        y = y if bias is None else y + bias
        return shard_batch(y.reshape(*lead, *kernel.shape[1:]), whole=False)


@jax.custom_jvp
def project(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x W; (N, I), (I, *O) -> (N, *O).

    The gradient is written out to be faster on CPUs; see `_cpu_kernel_gradient`.
    """
    return _multiply(x, kernel)


def _multiply(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.dot_general(x, kernel, (((1,), (0,)), ((), ())))


@project.defjvp
def _project_derivative(primals, tangents):
    # Not through `project`, which would hide the product from rematerialisation policies.
    (tangent,) = linear(_project_tangent, _project_gradient, primals, tangents)
    return _multiply(*primals), tangent


def _project_tangent(primals, tangents):
    (x, kernel), (x_tangent, kernel_tangent) = primals, tangents
    return [_multiply(x_tangent, kernel) + _multiply(x, kernel_tangent)]


def _project_gradient(primals, grads):
    (x, kernel), (grad,) = primals, grads
    outputs = tuple(range(1, grad.ndim))
    return [
        lax.dot_general(grad, kernel, ((outputs, outputs), ((), ()))),
        lax.platform_dependent(x, grad, cpu=_cpu_kernel_gradient, default=_kernel_gradient),
    ]


def _kernel_gradient(x: jax.Array, grad: jax.Array) -> jax.Array:
    """x^T g; (N, I), (N, *O) -> (I, *O)."""
    return lax.dot_general(x, grad, (((0,), (0,)), ((), ())))


def _cpu_kernel_gradient(x: jax.Array, grad: jax.Array) -> jax.Array:
    """`_kernel_gradient` by the faster of two products: x^T g, or g^T x transposed.

    On CPUs a product of tall matrices takes 1.3 times as long if its result is taller than
    wide. The barrier keeps XLA from swapping the operands back. In bfloat16 the output axes are
    one axis in the product: with several, XLA for CPUs (of JAX 0.12) sums in bfloat16.
    """
    outputs = grad.shape[1:]
    if grad.dtype == jnp.bfloat16:
        grad = grad.reshape(len(grad), -1)
    if x[0].size <= grad[0].size:
        product = lax.optimization_barrier(_kernel_gradient(x, grad))
    else:
        product = jnp.moveaxis(lax.optimization_barrier(_kernel_gradient(grad, x)), -1, 0)
    return product.reshape(-1, *outputs)


def xavier_uniform(num_inputs: int = 1, groups: int = 0) -> nnx.Initializer:
    """Xavier uniform over kernels (*inputs, *groups, *outputs), each group on its own."""

    def init(key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> jax.Array:
        fan_in = _product(shape[:num_inputs])
        fan_out = _product(shape[num_inputs + groups :])
        bound = (6.0 / (fan_in + fan_out)) ** 0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def _product(sizes: Sequence[int]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result


# Norms by name. Each is created by (width, eps=..., dtype=...), with `dtype` of the result.
NORMS: Registry[Callable[..., nnx.Module]] = Registry("norm")


@NORMS.register("layer")
class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis, computed in float32 (1607.06450)."""

    def __init__(self, width: int, *, eps: float = 1e-6, dtype: DTypeLike = jnp.float32):
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((width,), jnp.float32))
        self.eps = eps
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        function = normalize_in_one_pass if on_tpu() else normalize
        with jax.named_scope("norm"):
            return function(x, self.scale[...], self.bias[...], self.eps, self.dtype)


@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=(3, 4))
def normalize(
    x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float, dtype: jnp.dtype
) -> jax.Array:
    """`LayerNorm` as a function.

    For the backward pass only x is kept and the rest recomputed. In bfloat16, x takes a sixth
    of the memory of the float32 intermediates.
    """
    x = x.astype(jnp.float32)
    centred = x - x.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    return (centred * lax.rsqrt(variance + eps) * scale + bias).astype(dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def normalize_in_one_pass(
    x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float, dtype: jnp.dtype
) -> jax.Array:
    """`normalize` for TPUs: the mean of x and that of its square take one pass over x.

    The variance has a relative error of a few 1e-7 (1 + mean^2 / variance). For the
    backward pass x, its mean and its standard deviation are kept.
    """
    return _normalize_forward(x, scale, bias, eps, dtype)[0]


def _normalize_forward(x, scale, bias, eps, dtype):
    wide = x.astype(jnp.float32)
    mean = wide.mean(-1, keepdims=True)
    variance = jnp.square(wide).mean(-1, keepdims=True) - jnp.square(mean)
    # Rounding may make the variance negative.
    mean, factor = saved(mean, "mean"), lax.rsqrt(jnp.maximum(variance, 0.0) + eps)
    factor = saved(factor, "deviation")
    return ((wide - mean) * (factor * scale) + bias).astype(dtype), (x, scale, mean, factor)


@normalize_in_one_pass.defjvp
def _normalize_derivative(eps, dtype, primals, tangents):
    y, kept = _normalize_forward(*primals, eps, dtype)
    (tangent,) = linear(_normalize_tangent, _normalize_gradient, kept, tangents)
    return y, tangent.astype(dtype)


def _normalize_tangent(kept, tangents):
    x, scale, mean, factor = kept
    tangent, scale_tangent, bias_tangent = tangents
    normed = (x.astype(jnp.float32) - mean) * factor
    normed_tangent = _centred(tangent.astype(jnp.float32), normed) * factor
    return [normed_tangent * scale + normed * scale_tangent + bias_tangent]


def _normalize_gradient(kept, grads):
    x, scale, mean, factor = kept
    grad = grads[0]
    normed = (x.astype(jnp.float32) - mean) * factor
    rows = tuple(range(x.ndim - 1))
    along = (_centred(grad * scale, normed) * factor).astype(x.dtype)
    return [along, (grad * normed).sum(rows), grad.sum(rows)]


def _centred(x: jax.Array, normed: jax.Array) -> jax.Array:
    """x without its mean, and without its part along `normed`."""
    return x - x.mean(-1, keepdims=True) - normed * (x * normed).mean(-1, keepdims=True)


@NORMS.register("rms")
class RmsNorm(nnx.Module):
    """Root mean square normalisation over the last axis, in float32, no bias (1910.07467)."""

    def __init__(self, width: int, *, eps: float = 1e-6, dtype: DTypeLike = jnp.float32):
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))
        self.eps = eps
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        with jax.named_scope("norm"):
            return normalize_rms(x, self.scale[...], self.eps, self.dtype)


@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=(2, 3))
def normalize_rms(x: jax.Array, scale: jax.Array, eps: float, dtype: jnp.dtype) -> jax.Array:
    """`RmsNorm` as a function; for the backward pass only x is kept."""
    x = x.astype(jnp.float32)
    square = jnp.square(x).mean(-1, keepdims=True)
    return (x * lax.rsqrt(square + eps) * scale).astype(dtype)
