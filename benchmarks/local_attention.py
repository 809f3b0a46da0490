"""Where local and sparse attention pay: time and memory of a Transformer block, by tokens.

    python benchmarks/local_attention.py [--grids 14 24 32 64 128] [--json found.json]

A grid of 14 to 128 rows and columns has 197 to 16,385 tokens with the class token. For each kind
the script compiles a block (norms, attention, MLP) forward, and forward with backward, and measures
the median time and the compiler's temporary memory. What would need more memory than --limit-gib
is compiled, not run. The JSON document is written after each measurement: a run can be stopped.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vit_jax.errors import InputError
from vit_jax.files import write_atomic
from vit_jax.models import merge, model_config, split
from vit_jax.models.flops import encoder_macs
from vit_jax.speed.benchmark import default_dtype

KINDS = (
    "full",
    "block(8)",
    "halo(8, 3)",
    "window(7)",
    "window(7, relative=True)",
    "sparse(pattern='strided')",
    "sparse(pattern='fixed')",
    "sparse(pattern='strided', factors='by_head')",
)
PATCH = 16
GIB = 2**30


def measure(
    kind: str, side: int, *, width: int, heads: int, batch: int, rounds: int, limit: float
) -> dict[str, Any]:
    """One kind on one grid: keys per query, MACs, bytes, milliseconds or why there are none."""
    row: dict[str, Any] = dict(kind=kind, tokens=side * side + 1)
    try:
        config = model_config(
            "ViT-B/16",
            attention_kind=kind,
            image_size=PATCH * side,
            width=width,
            mlp_dim=4 * width,
            num_heads=heads,
            depth=1,
            dtype=default_dtype(),
        )
    except InputError as problem:
        return dict(row, problem=str(problem))
    row["keys_per_query"] = config.kind.macs(config) / (2 * width * config.num_tokens)
    row["block_macs"] = encoder_macs(config)
    graphdef, params = split(config.kind.create_block(config, nnx.Rngs(0)))
    shape = (batch, config.num_tokens, width)
    x, grad = (jax.random.normal(jax.random.key(i), shape, config.dtype) for i in range(2))

    def forward(params: Any, x: jax.Array) -> jax.Array:
        return merge(graphdef, params)(x, drop_rate=jnp.zeros(()))[0]

    def both(params: Any, x: jax.Array) -> Any:
        y, backward = jax.vjp(forward, params, x)
        return y, backward(grad.astype(y.dtype))

    for name, function in (("forward", forward), ("both", both)):
        compiled = jax.jit(function).lower(params, x).compile()
        size = compiled.memory_analysis().temp_size_in_bytes
        row[f"{name}_bytes"] = size
        if size > limit * GIB:
            row[f"{name}_problem"] = f"needs {size / GIB:.1f} GiB, above --limit-gib"
            continue
        row[f"{name}_ms"] = milliseconds(lambda: compiled(params, x), rounds)  # noqa: B023
    return row


def milliseconds(run: Callable[[], Any], rounds: int) -> float:
    """Median time of some rounds, after one that is not counted."""
    jax.block_until_ready(run())
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def report(rows: list[dict[str, Any]]) -> str:
    """The measurements as Markdown: milliseconds and MiB of both passes, by tokens."""
    lengths = sorted({row["tokens"] for row in rows})
    found = {(row["kind"], row["tokens"]): row for row in rows}
    lines = ["| kind | " + " | ".join(f"{length} tokens" for length in lengths) + " |"]
    lines.append("|---" * (1 + len(lengths)) + "|")
    for kind in dict.fromkeys(row["kind"] for row in rows):
        cells = []
        for length in lengths:
            row = found.get((kind, length), {})
            size = f"{row['both_bytes'] / 2**20:.0f} MiB" if "both_bytes" in row else "none"
            cells.append(f"{row['both_ms']:.1f} ms, {size}" if "both_ms" in row else size)
        lines.append(f"| `{kind}` | " + " | ".join(cells) + " |")
    problems = {row["problem"] for row in rows if "problem" in row}
    return "\n".join([*lines, "", *sorted(problems)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--grids", type=int, nargs="+", default=[14, 24, 32, 64, 128])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS))
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit-gib", type=float, default=8.0, help="memory that a run may need")
    parser.add_argument("--json", metavar="FILE", help="file for the JSON document")
    args = parser.parse_args()
    document = dict(
        device=jax.devices()[0].device_kind,
        jax=jax.__version__,
        dtype=default_dtype(),
        **{name: getattr(args, name) for name in ("width", "heads", "batch", "rounds")},
    )
    rows: list[dict[str, Any]] = []
    for side in args.grids:
        for kind in args.kinds:
            options = dict(width=args.width, heads=args.heads, batch=args.batch)
            rows.append(measure(kind, side, **options, rounds=args.rounds, limit=args.limit_gib))
            if args.json:
                text = json.dumps(dict(document, rows=rows), indent=1) + "\n"
                write_atomic(args.json, text)
    print(report(rows))


if __name__ == "__main__":
    main()
