"""Which implementation of attention a device takes, and how it is cut over the mesh.

| name | |
|---|---|
| xla | products of all queries with all keys, `self_attention.attention` |
| blockwise | a softmax accumulated over blocks of keys, `blockwise`, on every device |
| cudnn | cuDNN's kernel, on NVIDIA GPUs |
| splash | the Pallas kernel for TPUs, `splash` |

The last three are fused: they hold no array of queries times keys.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, PartitionSpec

from vit_jax.errors import InputError
from vit_jax.models.attention.fused.blockwise import blockwise_attention
from vit_jax.models.attention.sequence import sequence_shards
from vit_jax.models.forms.platform import device_in_use
from vit_jax.parallel.axes import BATCH_AXES, SEQUENCE_AXIS, TENSOR_AXIS

if TYPE_CHECKING:
    from vit_jax.models.attention.fused.splash import Seen

IMPLEMENTATIONS = ("auto", "xla", "blockwise", "cudnn", "splash")
# Those that add no bias to the logits.
WITHOUT_BIAS = ("cudnn", "splash")
# Number of queries and of keys from which `auto` takes a fused implementation, by platform; see
# docs/performance.md. At fewer, the plain products are as fast or faster.
LONG = dict(cpu=1024, gpu=1024, tpu=1024)
# Products of the size of queries times keys that a backward pass computes beside its own four.
RECOMPUTED = dict(xla=0, blockwise=1, cudnn=1, splash=3)
_NEEDS = dict(cudnn=("gpu", "an NVIDIA GPU"), splash=("tpu", "a TPU"))


def check_device(implementation: str, platform: str) -> None:
    """Refuses an implementation that devices lack.

    Args:
      implementation: one of IMPLEMENTATIONS.
      platform: platform of the devices: cpu, gpu or tpu.

    Raises:
      InputError: names what it needs.
    """
    if implementation in _NEEDS and _NEEDS[implementation][0] != platform:
        raise InputError(
            f"model.attention {implementation!r} needs {_NEEDS[implementation][1]}, and there is "
            f"only {platform}; 'auto' takes what the device has"
        )


def check_takes_bias(implementation: str, where: str) -> None:
    """Raises InputError for an implementation without biases, where `where` needs one."""
    if implementation in WITHOUT_BIAS:
        raise InputError(
            f"{where} needs model.attention 'xla' or 'blockwise', not {implementation!r}"
        )


def choose(
    implementation: str,
    *,
    queries: int,
    keys: int,
    dtype: jnp.dtype,
    head_width: int,
    biased: bool,
    platform: str,
    kind: str = "",
) -> str:
    """The implementation that is taken: `auto` resolved by number of tokens and device.

    Args:
      implementation: one of IMPLEMENTATIONS.
      queries, keys: numbers of tokens.
      dtype: dtype of queries, keys and values.
      head_width: width of a head.
      biased: whether a bias is added to the logits; only blockwise and xla add one.
      platform: platform of the devices: cpu, gpu or tpu.
      kind: name of the devices, such as "NVIDIA H100 80GB HBM3".
    """
    if implementation != "auto":
        return implementation
    if min(queries, keys) < LONG.get(platform, LONG["gpu"]):
        return "xla"
    if platform == "tpu" and not biased:
        return "splash"
    # What cuDNN's kernel takes on all cards that have it.
    half = dtype in (jnp.bfloat16, jnp.float16) and head_width % 8 == 0 and head_width <= 128
    if platform == "gpu" and half and not biased and "AMD" not in kind:
        return "cudnn"
    return "blockwise"


def fused_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    bias: jax.Array | None,
    causal: bool,
    implementation: str,
    tokens: int | None,
) -> jax.Array | None:
    """Attention by a fused implementation, or over the mesh axis `sequence`.

    Args:
      query, key, value: (B, N, H, d).
      bias: added to the logits, broadcastable to (B, H, N, N), or None.
      causal: whether a query only sees the keys up to its own place.
      implementation: one of IMPLEMENTATIONS.
      tokens: number of tokens without the padding that follows them; None: there is none.

    Returns:
      (B, N, H, d); None: the plain products are to be taken.
    """
    queries, keys, width = query.shape[1], key.shape[1], query.shape[-1]
    shards = sequence_shards()
    cut = shards > 1 and tokens is not None and queries == keys and not queries % shards
    platform, kind = device_in_use()
    taken = choose(
        implementation,
        queries=queries,
        keys=keys,
        dtype=query.dtype,
        head_width=width,
        biased=bias is not None,
        platform=platform,
        kind=kind,
    )
    check_device(taken, platform)
    if taken == "xla" and not cut:
        return None
    attend = functools.partial(
        _on_device,
        causal=causal,
        implementation=taken,
        length=keys if tokens is None else min(tokens, keys),
        gathered=cut,
    )
    # XLA divides cuDNN's call by itself.
    if taken == "cudnn" and not cut:
        return attend(query, key, value, bias)
    return _over_mesh(attend, query, key, value, bias, cut=cut)


def masked_attention(query: jax.Array, key: jax.Array, value: jax.Array, seen: "Seen") -> jax.Array:
    """softmax(q k^T / sqrt(d)) v over the keys that a mask shows, by the kernel that takes one.

    Args:
      query, key, value: (B, N, H, d).
      seen: see `splash.Seen`.

    Returns:
      (B, N, H, d).

    Raises:
      InputError: the device lacks the kernel.
    """
    check_device("splash", device_in_use()[0])
    from vit_jax.models.attention.fused import splash

    attend = functools.partial(splash.splash_attention, seen=seen)
    return _over_mesh(attend, query, key, value)


def _over_mesh(
    attend: Callable[..., jax.Array],
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: jax.Array | None = None,
    *,
    cut: bool = False,
) -> jax.Array:
    """Attention of (B, N, H, d) on each device of the mesh in use, for its examples and heads.

    Args:
      attend: attention of one device's queries, keys, values and, if there is one, bias.
      query, key, value: (B, N, H, d).
      bias: added to the logits, broadcastable to (B, H, N, N), or None.
      cut: whether the mesh axis `sequence` cuts the tokens.
    """
    (batch, queries, heads, _), mesh = query.shape, jax.sharding.get_abstract_mesh()
    inputs = [query, key, value] if bias is None else [query, key, value, bias]
    if not mesh.auto_axes:
        return attend(*inputs)
    rows = _rows(mesh, batch)
    over_heads = _axis(mesh, TENSOR_AXIS, heads)
    own = PartitionSpec(rows, SEQUENCE_AXIS if cut else None, over_heads)
    specs: list[PartitionSpec] = [own, own, own]
    if bias is not None:
        specs.append(
            PartitionSpec(
                rows if bias.shape[0] == batch > 1 else None,
                over_heads if bias.shape[1] == heads > 1 else None,
                SEQUENCE_AXIS if cut and bias.shape[2] == queries > 1 else None,
            )
        )
    # Where no axis divides the batch, all devices compute all of it.
    mapped = jax.shard_map(attend, in_specs=tuple(specs), out_specs=own, check_vma=False)
    return mapped(*inputs)


def _rows(mesh: AbstractMesh, batch: int) -> tuple[str, ...]:
    """The axes that divide the batch; none if they do not."""
    axes = tuple(axis for axis in BATCH_AXES if axis in mesh.auto_axes)
    parts = 1
    for axis in axes:
        parts *= mesh.shape[axis]
    return () if batch % parts else axes


def _axis(mesh: AbstractMesh, name: str, size: int) -> str | None:
    """The axis if it divides `size`."""
    return name if name in mesh.auto_axes and size % mesh.shape[name] == 0 else None


def _on_device(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: jax.Array | None = None,
    *,
    causal: bool,
    implementation: str,
    length: int,
    gathered: bool,
) -> jax.Array:
    """Attention of one device's queries (B, Q, H, d); see `fused_attention`.

    With `gathered`, keys and values are those of the same tokens, and all others are gathered.
    """
    start = None
    if gathered:
        key, value = (lax.all_gather(x, SEQUENCE_AXIS, axis=1, tiled=True) for x in (key, value))
        start = lax.axis_index(SEQUENCE_AXIS) * query.shape[1]
    # Only blockwise takes queries whose first place is not 0.
    offset = gathered and causal
    if implementation == "splash" and not offset:
        from vit_jax.models.attention.fused import splash

        seen = splash.causal if causal else None
        return splash.splash_attention(query, key, value, seen=seen, length=length)
    if implementation == "cudnn" and not offset:
        own = all_keys = None
        if length < key.shape[1]:
            own = jnp.full(len(query), query.shape[1], jnp.int32)
            all_keys = jnp.full(len(query), length, jnp.int32)
        return jax.nn.dot_product_attention(
            query,
            key,
            value,
            is_causal=causal,
            query_seq_lengths=own,
            key_value_seq_lengths=all_keys,
            implementation="cudnn",
        )
    query, key, value = (x.transpose(0, 2, 1, 3) for x in (query, key, value))
    options = dict(block=key.shape[2]) if implementation == "xla" else {}
    y = blockwise_attention(
        query, key, value, bias, causal=causal, start=start, length=length, **options
    )
    return y.transpose(0, 2, 1, 3)
