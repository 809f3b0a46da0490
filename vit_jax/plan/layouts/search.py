"""All layouts of a run, estimated by formulas and ranked by the predicted step."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vit_jax.errors import InputError
from vit_jax.models.attention.fused.choice import LONG
from vit_jax.models.attention.sequence import suits
from vit_jax.models.config import ModelConfig
from vit_jax.models.vit_config import ViTConfig
from vit_jax.parallel import hardware
from vit_jax.parallel.axes import AXES
from vit_jax.parallel.mesh import num_slices
from vit_jax.plan.analytic.devices import describe_devices, generation, num_chips
from vit_jax.plan.analytic.step import Analyst, Estimate, Layout
from vit_jax.plan.compile import memory_of

REMAT = ("none", "names", "full")  # policies that are tried, from least to most recomputation
# All of them, the one that changes least first.
ORDER = ("auto", "none", "dots", "names", "dots_no_batch", "full")
MAX_ACCUMULATE = 32
MAX_TENSOR = 16  # activations of a wider group take longer to sum than their products
MAX_SEQUENCE = 16  # each doubling has every device gather as many keys, for half the queries
MAX_NODES = 4096  # of GPUs, in the search for the smallest number that suffices
# Share of the memory that an estimate may fill: it is right to about a tenth.
MARGIN = 0.9
FREE = ("parallel.replica", "parallel.data", "parallel.fsdp", "parallel.sequence",
        "parallel.tensor", "parallel.accumulate", "model.remat")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Ranking:
    """The result of a search.

    Attributes:
      fitting: layouts that fit, the fastest first.
      tried: number of layouts that the run allows.
      least: layout that needs the least memory, whether it fits or not; None: none is allowed.
      refused: why the first of the others was refused, "" if none was.
    """

    fitting: list[Estimate]
    tried: int
    least: Estimate | None
    refused: str = ""


def rank(
    analyst: Analyst, pinned: Mapping[str, Any] | None = None, limit: int | None = None
) -> Ranking:
    """Estimates every layout that the devices allow.

    Args:
      analyst: estimates of the run's layouts.
      pinned: options of `FREE` that are given, by name; -1 of a mesh axis leaves it free.
      limit: bytes of memory of one device; None: that of the devices, if it is known.
    """
    limit = memory_of(analyst.devices[0]) if limit is None else limit
    fitting, tried, least, refused = [], 0, None, ""
    for layout in layouts(analyst, pinned or {}):
        try:
            found = analyst.estimate(layout)
        except InputError as error:
            refused = refused or str(error)
            continue
        tried += 1
        if least is None or found.memory.total < least.memory.total:
            least = found
        if limit is None or found.memory.total <= MARGIN * limit:
            fitting.append(found)
    return Ranking(sorted(fitting, key=_cost), tried, least, refused)


def _cost(found: Estimate) -> tuple[float, ...]:
    """Seconds; of layouts that take as long, the one that changes and needs less is first."""
    layout, again = found.layout, ORDER.index(found.layout.remat)
    simpler = (layout.accumulate, again, layout.mesh["sequence"], layout.mesh["tensor"])
    if found.roofline is None:
        # The speeds of the device are not known: the plainest layout.
        axes = (layout.mesh["sequence"], layout.mesh["tensor"], layout.mesh["fsdp"])
        return (again, layout.accumulate, *axes, found.memory.total)
    # Microbatches pay where they save a tenth, which is how well the formulas know.
    seconds = found.seconds * (1 if layout.accumulate == 1 else 1 / MARGIN)
    return (round(seconds, 5), *simpler, found.memory.total)


def layouts(analyst: Analyst, pinned: Mapping[str, Any]) -> Iterator[Layout]:
    """The layouts of a run's devices, whether the parameters divide so or not."""
    config, model = analyst.config, analyst.run("none").model_config
    count = len(analyst.devices)
    replica = num_slices(analyst.devices) if analyst.tpu else 1
    tensors = [1]
    if isinstance(model, ViTConfig):
        both = math.gcd(model.num_heads, model.mlp_dim)
        tensors = [n for n in range(1, MAX_TENSOR + 1) if both % n == 0]
    both_axes = itertools.product(
        _given("parallel.tensor", tensors, pinned),
        _given("parallel.sequence", _sequences(model), pinned),
    )
    for tensor, sequence in both_axes:
        if min(tensor, sequence) < 1 or count % (tensor * sequence):
            continue
        rest = count // (tensor * sequence)
        for pods in _given("parallel.replica", [replica], pinned):
            if pods < 1 or rest % pods:
                continue
            for fsdp in _given("parallel.fsdp", _divisors(rest // pods), pinned):
                if fsdp < 1 or (rest // pods) % fsdp:
                    continue
                data = rest // pods // fsdp
                if data not in _given("parallel.data", [data], pinned):
                    continue
                sizes = tuple(zip(AXES, (pods, data, fsdp, sequence, tensor), strict=True))
                rows, left = divmod(config.batch_size, rest)
                if left:
                    continue
                parts = [2**k for k in range(MAX_ACCUMULATE.bit_length()) if rows % 2**k == 0]
                parts = parts if not analyst.run("none").task.whole_batch else [1]
                for accumulate in _given("parallel.accumulate", parts, pinned):
                    for remat in _given("model.remat", policies(analyst), pinned):
                        yield Layout(sizes, remat, accumulate)


def _sequences(model: ModelConfig) -> list[int]:
    """Sizes of the axis sequence to try: more than one only where images have many tokens."""
    if not isinstance(model, ViTConfig) or model.num_tokens < LONG["tpu"]:
        return [1]
    sizes = [2**k for k in range(MAX_SEQUENCE.bit_length())]
    return [size for size in sizes if suits(model, size)]


def policies(analyst: Analyst) -> list[str]:
    """Values of `model.remat` to try: auto, and those that keep less.

    Policies that keep more are slower on TPUs by the estimates of docs/performance.md. The
    roofline does not tell: in it the memory's traffic passes beside the products.
    """
    known, default = tried(analyst.run("none").model_config), analyst.policy("auto")
    return ["auto", *known[known.index(default) + 1 :]]


def tried(model: ModelConfig) -> list[str]:
    """The policies of remat to try for a model, from least to most recomputation."""
    return [name for name in REMAT if name != "names" or isinstance(model, ViTConfig)]


def _given(name: str, choices: Sequence[Any], pinned: Mapping[str, Any]) -> Sequence[Any]:
    value = pinned.get(name, -1)
    return choices if value == -1 else [value]


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def best_of_each(found: Sequence[Estimate]) -> list[Estimate]:
    """Of a ranking, the first of every mesh: others differ only in what they recompute."""
    seen: set[tuple[tuple[str, int], ...]] = set()
    result = []
    for each in found:
        if each.layout.sizes not in seen:
            seen.add(each.layout.sizes)
            result.append(each)
    return result


def smallest(
    analyst: Analyst, topology: str, slices: int, pinned: Mapping[str, Any] | None = None
) -> str | None:
    """The smallest topology of the same chips, beyond the given one, on which the run fits.

    Args:
      analyst: estimates for `topology`.
      topology: e.g. "v5e:4x4" or "h100:2x8".
      slices: number of slices.
      pinned: as in `rank`, but sizes of the mesh do not count.
    """
    kept = {name: value for name, value in (pinned or {}).items() if name == "model.remat"}
    for name in larger(topology):
        devices = describe_devices(name, slices)
        if rank(analyst.on(devices), kept).fitting:
            return name
    return None


def larger(topology: str) -> Iterator[str]:
    """Larger topologies of the same chips, ascending."""
    name, chips = generation(topology), num_chips(topology)
    if name in hardware.TPUS:
        for sides in hardware.TPUS[name].slices:
            if math.prod(sides) > chips:
                yield f"{name}:{'x'.join(map(str, sides))}"
        return
    nodes, gpus = (int(side) for side in topology.partition(":")[2].split("x"))
    most = hardware.GPUS[name][1]
    nodes = nodes if gpus < most else 2 * nodes
    while nodes <= MAX_NODES:
        yield f"{name}:{nodes}x{most}"
        nodes *= 2
