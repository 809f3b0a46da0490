"""Which attention is fastest, by number of tokens: forward and backward pass of each there is.

    python benchmarks/attention.py [--batch 64] [--heads 12] [--lengths 50 197 257 577 1025]

| name | |
|---|---|
| xla | `self_attention.attention`, what `config.model.attention=xla` takes |
| derived | the same product by product, its derivative left to JAX |
| cudnn | `jax.nn.dot_product_attention(implementation="cudnn")`, GPUs |
| pallas | the kernel for this kind of device that comes with JAX, tokens padded to 128s |

What a device does not run is listed with the reason. Heads have 64 channels; tokens are those of
patch 32, 16 and 14 at 224 pixels, and of patch 16 at 384 and 512.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax.models.attention.self_attention import attend, attention_weights
from vit_jax.speed.benchmark import default_dtype

HEAD_WIDTH = 64
BLOCK = 128


def derived(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    query, key, value = (x.transpose(0, 2, 1, 3) for x in (query, key, value))
    weights = attention_weights(query, key).astype(value.dtype)
    return jnp.einsum("bhqk,bhkd->bqhd", weights, value)


def cudnn(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")


def pallas(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Tokens of padding are a segment of their own, to which no other attends."""
    length = query.shape[1]
    padding = -length % BLOCK
    query, key, value = (
        jnp.pad(x, ((0, 0), (0, padding), (0, 0), (0, 0))) for x in (query, key, value)
    )
    segments = (jnp.arange(length + padding) >= length).astype(jnp.int32)
    segments = jnp.broadcast_to(segments, query.shape[:2])
    scale = HEAD_WIDTH**-0.5
    if jax.default_backend() == "tpu":
        from jax.experimental.pallas.ops.tpu import flash_attention as tpu

        query, key, value = (x.transpose(0, 2, 1, 3) for x in (query, key, value))
        ids = tpu.SegmentIds(segments, segments)
        y = tpu.flash_attention(query, key, value, segment_ids=ids, sm_scale=scale)
        return y.transpose(0, 2, 1, 3)[:, :length]
    from jax.experimental.pallas.ops.gpu import attention as gpu

    return gpu.mha(query, key, value, segments, sm_scale=scale)[:, :length]


IMPLEMENTATIONS: dict[str, Callable[..., jax.Array]] = dict(
    xla=lambda *inputs: attend(*inputs)[0], derived=derived, cudnn=cudnn, pallas=pallas
)


def milliseconds(function: Callable[..., Any], inputs: tuple, rounds: int) -> float:
    """Median of rounds of a jitted function, which has run before."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready(function(*inputs))
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def measure(batch: int, heads: int, length: int, dtype: str, rounds: int) -> dict[str, Any]:
    """Milliseconds of the forward pass, and of both passes, or why there are none."""
    keys = jax.random.split(jax.random.key(0), 4)
    shape = (batch, length, heads, HEAD_WIDTH)
    query, key, value, grad = (jax.random.normal(k, shape, dtype) for k in keys)
    expected = derived(query, key, value)
    found = {}
    for name, function in IMPLEMENTATIONS.items():

        def both(query, key, value, grad, function=function):
            y, backward = jax.vjp(function, query, key, value)
            return y, backward(grad)

        try:
            forward, both = jax.jit(function), jax.jit(both)
            error = jnp.abs(forward(query, key, value) - expected).max()
            jax.block_until_ready(both(query, key, value, grad))
        except Exception as problem:  # whatever a device or a kernel objects to
            found[name] = dict(problem=str(problem).splitlines()[0])
            continue
        found[name] = dict(
            forward_ms=milliseconds(forward, (query, key, value), rounds),
            both_ms=milliseconds(both, (query, key, value, grad), rounds),
            largest_difference=float(error),
        )
    return dict(length=length, found=found)


def report(document: dict[str, Any]) -> str:
    """The measurements as Markdown: forward pass / both passes, in ms."""
    rows = [
        f"{document['device']}, jax {document['jax']}, {document['dtype']}, batch "
        f"{document['batch']}, {document['heads']} heads; ms forward / both passes",
        "",
        "| tokens | " + " | ".join(IMPLEMENTATIONS) + " |",
        "|---" * (1 + len(IMPLEMENTATIONS)) + "|",
    ]
    problems = {}
    for row in document["rows"]:
        cells = []
        for name, found in row["found"].items():
            if "problem" in found:
                problems[name] = found["problem"]
                cells.append("none")
            else:
                cells.append(f"{found['forward_ms']:.2f} / {found['both_ms']:.2f}")
        rows.append(f"| {row['length']} | " + " | ".join(cells) + " |")
    return "\n".join([*rows, "", *(f"{name}: {text}" for name, text in problems.items())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--lengths", type=int, nargs="+", default=[50, 197, 257, 577, 1025])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    args = parser.parse_args()
    dtype = default_dtype()
    rows = [measure(args.batch, args.heads, n, dtype, args.rounds) for n in args.lengths]
    document = dict(
        device=jax.devices()[0].device_kind,
        jax=jax.__version__,
        dtype=dtype,
        batch=args.batch,
        heads=args.heads,
        rows=rows,
    )
    print(json.dumps(document) if args.json else report(document))


if __name__ == "__main__":
    main()
