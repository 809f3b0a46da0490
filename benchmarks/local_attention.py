"""Where local and sparse attention pay: time and memory of a Transformer block, by tokens.

    python benchmarks/local_attention.py [--grids 14 24 32 64 128] [--json found.json]
    python benchmarks/local_attention.py --topology=v5e:2x2 --width=1024 --heads=16 --batch=8

A grid of 14 to 128 rows and columns has 197 to 16,385 tokens with the class token. For each kind
the script compiles a block (norms, attention, MLP) forward, and forward with backward, and measures
the median time and the compiler's temporary memory. What would need more memory than --limit-gib
is compiled, not run. The JSON document is written after each measurement: a run can be stopped.

With --topology the block is compiled for TPUs that need not be there (they need the compiler:
pip install 'vit_jax[plan]'), each with --batch examples. Nothing runs; the compiled program gives
one chip's temporary memory, its bytes to and from main memory, and the estimates of its time
that `vit_jax plan` prints. `KIND @ splash` is a kind with model.attention=splash, whose kernel has
no estimate; the others have plain products.
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
from jax.sharding import NamedSharding, PartitionSpec

from vit_jax import config as configs
from vit_jax.errors import InputError
from vit_jax.files import write_atomic
from vit_jax.models import merge, model_config, split
from vit_jax.models.flops import encoder_macs
from vit_jax.parallel.hardware import find_chip
from vit_jax.parallel.mesh import create_mesh
from vit_jax.plan import cycles, roofline
from vit_jax.plan.compile import topology_devices
from vit_jax.plan.cycles import find_operations
from vit_jax.plan.hlo import Module
from vit_jax.plan.traffic import memory_traffic
from vit_jax.speed.benchmark import default_dtype
from vit_jax.text import first_line

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
# With --topology, beside KINDS.
KERNELS = (
    "full @ splash",
    "sparse(pattern='strided') @ splash",
    "sparse(pattern='fixed') @ splash",
    "sparse(pattern='strided', factors='by_head') @ splash",
)
PATCH = 16
GIB = 2**30


def describe(kind: str, side: int, width: int, heads: int, dtype: str, attention: str) -> Any:
    """The configuration of a model of one block; `attention` is for a kind that names none.

    Raises:
      InputError: the kind does not fit the grid.
    """
    name, _, given = kind.partition(" @ ")
    return model_config(
        "ViT-B/16",
        attention_kind=name,
        attention=given or attention,
        image_size=PATCH * side,
        width=width,
        mlp_dim=4 * width,
        num_heads=heads,
        depth=1,
        dtype=dtype,
    )


def passes(config: Any) -> tuple[Any, Callable[..., Any], Callable[..., Any]]:
    """Parameters of a block; (params, x) -> y; and (params, x, grad) -> y and gradients."""
    graphdef, params = split(config.kind.create_block(config, nnx.Rngs(0)))

    def forward(params: Any, x: jax.Array) -> jax.Array:
        return merge(graphdef, params)(x, drop_rate=jnp.zeros(()))[0]

    def both(params: Any, x: jax.Array, grad: jax.Array) -> Any:
        y, backward = jax.vjp(forward, params, x)
        return y, backward(grad.astype(y.dtype))

    return params, forward, both


def about(kind: str, side: int, config: Any) -> dict[str, Any]:
    """Facts about a kind on a grid."""
    return dict(
        kind=kind,
        tokens=side * side + 1,
        keys_per_query=config.kind.macs(config) / (2 * config.width * config.num_tokens),
        block_macs=encoder_macs(config),
    )


def compile_for(
    topology: str, kind: str, side: int, *, width: int, heads: int, batch: int
) -> dict[str, Any]:
    """One kind on one grid, forward and backward, compiled for a chip of a topology."""
    try:
        config = describe(kind, side, width, heads, "bfloat16", "xla")
    except InputError as problem:
        return dict(kind=kind, tokens=side * side + 1, problem=str(problem))
    row = about(kind, side, config)
    params, _, both = passes(config)
    mesh = create_mesh(configs.default().parallel, topology_devices(topology))
    whole, cut = (NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec("data")))
    shape = (batch * mesh.size, config.num_tokens, width)
    x = jax.ShapeDtypeStruct(shape, config.dtype, sharding=cut)
    params = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=whole), params)
    chip = find_chip(mesh.devices.flat[0].device_kind)
    assert chip is not None
    try:
        with jax.set_mesh(mesh):
            compiled = jax.jit(both).lower(params, x, x).compile()
    except jax.errors.JaxRuntimeError as problem:  # more memory than the chip has
        return dict(row, problem=f"{kind}, {row['tokens']} tokens: {first_line(problem)}")
    module = Module(compiled.as_text() or "")
    times: dict[str, float | None] = dict.fromkeys(("per_operation", "copies_beside", "compiler"))
    if config.attention != "splash":
        nothing_sent = roofline.predict(step_flops=0, traffic=0, found=(), chip=chip)
        flops = 6 * batch * row["block_macs"]
        times = cycles.predict(find_operations(module), nothing_sent, flops, chip)
    return dict(
        row,
        both_bytes=compiled.memory_analysis().temp_size_in_bytes,
        traffic_bytes=memory_traffic(module),
        **{f"{name}_ms": value and 1000 * value for name, value in times.items()},
    )


def measure(
    kind: str, side: int, *, width: int, heads: int, batch: int, rounds: int, limit: float
) -> dict[str, Any]:
    """One kind on one grid: keys per query, MACs, bytes, milliseconds or why there are none."""
    try:
        config = describe(kind, side, width, heads, default_dtype(), "auto")
    except InputError as problem:
        return dict(kind=kind, tokens=side * side + 1, problem=str(problem))
    row = about(kind, side, config)
    params, forward, both = passes(config)
    shape = (batch, config.num_tokens, width)
    x, grad = (jax.random.normal(jax.random.key(i), shape, config.dtype) for i in range(2))

    for name, function in (("forward", forward), ("both", lambda p, x: both(p, x, grad))):
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


def report_compiled(rows: list[dict[str, Any]]) -> str:
    """The compiled blocks as Markdown: MiB of temporaries and of traffic, and two estimates."""
    lines = ["| kind | tokens | temporaries, MiB | traffic, MiB | one by one, ms | compiler, ms |"]
    lines.append("|---" * 6 + "|")
    for row in rows:
        if "problem" in row:
            lines.append(f"| `{row['kind']}` | {row['tokens']} | {row['problem']} | | | |")
            continue
        sizes = [f"{row[name] / 2**20:.0f}" for name in ("both_bytes", "traffic_bytes")]
        times = [row["per_operation_ms"], row["compiler_ms"]]
        cells = [*sizes, *("-" if each is None else f"{each:.2f}" for each in times)]
        lines.append(f"| `{row['kind']}` | {row['tokens']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--grids", type=int, nargs="+", default=[14, 24, 32, 64, 128])
    parser.add_argument("--kinds", nargs="+", help="default: all")
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit-gib", type=float, default=8.0, help="memory that a run may need")
    parser.add_argument("--topology", help="TPUs to compile for, such as v5e:2x2")
    parser.add_argument("--json", metavar="FILE", help="file for the JSON document")
    args = parser.parse_args()
    kinds = args.kinds or (*KINDS, *(KERNELS if args.topology else ()))
    document = dict(
        device=args.topology or jax.devices()[0].device_kind,
        jax=jax.__version__,
        dtype="bfloat16" if args.topology else default_dtype(),
        **{name: getattr(args, name) for name in ("width", "heads", "batch", "rounds")},
    )
    rows: list[dict[str, Any]] = []
    for side in args.grids:
        for kind in kinds:
            options = dict(width=args.width, heads=args.heads, batch=args.batch)
            if args.topology:
                rows.append(compile_for(args.topology, kind, side, **options))
            else:
                limits = dict(rounds=args.rounds, limit=args.limit_gib)
                rows.append(measure(kind, side, **options, **limits))
            if args.json:
                text = json.dumps(dict(document, rows=rows), indent=1) + "\n"
                write_atomic(args.json, text)
    print(report_compiled(rows) if args.topology else report(rows))


if __name__ == "__main__":
    main()
