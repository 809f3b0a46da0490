"""Collectives of a compiled step: which there are and how many bytes they move.

Bytes are those that one device sends in one step, and receives as many, when every
collective runs as a ring over the n devices of its group: the algorithm that needs the
least bandwidth. Where each device holds operands of s bytes, it sends

  all-reduce            2 s (n - 1) / n    a reduce-scatter followed by an all-gather
  reduce-scatter          s (n - 1) / n
  all-to-all              s (n - 1) / n
  all-gather              s (n - 1)        s is a shard, n s the result
  collective-permute      s

A collective in a loop counts as often as the loop turns: scanned blocks run depth times.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from vit_jax.parallel.rules import STACKED, path_name

# Bytes sent by operands of `s` bytes in a group of `n`.
SENT = {
    "all-reduce": lambda s, n: 2 * s * (n - 1) / n,
    "reduce-scatter": lambda s, n: s * (n - 1) / n,
    "all-to-all": lambda s, n: s * (n - 1) / n,
    "ragged-all-to-all": lambda s, n: s * (n - 1) / n,
    "all-gather": lambda s, n: s * (n - 1),
    "collective-permute": lambda s, n: s,
    "collective-broadcast": lambda s, n: s,
}
# Parameters that are used in float32 whatever the type of matrix products.
FULL_PRECISION = r"(^|/)(norm\d?|query_norm|key_norm|pre_logits|head|head_dist)/"
# The kernels through which activations enter what tensor parallelism splits.
ENTERS_BRANCH = r"blocks/(attention/qkv|mlp/(fc1|gated))/kernel$"
_BITS = re.compile(r"[a-z]+(\d+)")
_SHAPE = re.compile(r"\b(pred|token|[a-z]+\d+\w*)\[([\d,]*)\]")
_INSTRUCTION = re.compile(r"\s*(?:ROOT )?%?([\w.-]+) = (.*)")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.-]+) \(.*\{$")
_CALLED = re.compile(
    r"(calls|to_apply|body|called_computations|\w+_computation|branch_computations)"
    r"=(\{[^}]*\}|%?[\w.-]+)"
)


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective instruction."""

    kind: str  # a key of SENT
    operand_bytes: int  # on each device
    group: int  # devices that take part
    times: int  # executions per step
    source: str  # the operation of the program that it comes from
    pipeline: str = ""  # pieces of one pipelined collective share this name

    @property
    def bytes(self) -> int:
        """What a device sends per step."""
        return round(self.times * SENT[self.kind](self.operand_bytes, self.group))


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str


def find_collectives(hlo: str) -> list[Collective]:
    """The collectives that one execution of a compiled module runs.

    Args:
      hlo: optimized HLO as text, `compiled.as_text()`.

    Raises:
      ValueError: no module, or a loop with collectives in it whose length is not in the text.
    """
    return _Module(hlo).collectives()


def by_kind(found: Iterable[Collective]) -> dict[str, int]:
    """Bytes a device sends per step, by kind of collective."""
    total = collections.Counter()
    for collective in found:
        total[collective.kind] += collective.bytes
    return dict(sorted(total.items()))


def minimum(
    params: Any,
    mesh: Mesh,
    *,
    batch_shards: int,
    dtype: str,
    microbatches: int = 1,
    activation_bytes: int = 0,
) -> dict[str, int]:
    """Bytes a device must send per step for a layout, by kind of collective.

    * Gradients are summed over the devices that share a parameter: one all-reduce; over
      fsdp a reduce-scatter, for every microbatch, as nobody has room for the whole.
    * fsdp gathers each parameter for every microbatch: those of blocks in the forward and
      again in the backward pass, others once.
    * tensor sums what leaves attention and MLP of each block, and on the way back what
      enters them: four all-reduces of the activations.

    Weights and gradients travel in the type in which they are multiplied. What every
    layout needs on top, such as the mean of the loss, is too little to count.

    Args:
      params: pytree of arrays or ShapeDtypeStructs with their shardings.
      mesh: of the run.
      batch_shards: into how many parts the batch is cut.
      dtype: of matrix products, `config.model.dtype`.
      microbatches: per step, `config.parallel.accumulate`.
      activation_bytes: of one block's input on one device, over all microbatches.
    """
    total: dict[str, float] = collections.Counter()
    fsdp, tensor = mesh.shape.get("fsdp", 1), mesh.shape.get("tensor", 1)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name, spec = path_name(path), leaf.sharding.spec
        parts = fsdp if "fsdp" in spec else 1
        itemsize = leaf.dtype.itemsize
        if not re.search(FULL_PRECISION, name):
            itemsize = min(itemsize, jnp.dtype(dtype).itemsize)
        size = leaf.size * itemsize / (tensor if "tensor" in spec else 1)
        gathers = microbatches * (2 if re.search(STACKED, name) else 1)
        total["all-gather"] += gathers * SENT["all-gather"](size / parts, parts)
        total["reduce-scatter"] += microbatches * SENT["reduce-scatter"](size, parts)
        total["all-reduce"] += SENT["all-reduce"](size / parts, batch_shards // parts)
        if "tensor" in spec and re.search(ENTERS_BRANCH, name):
            layers = leaf.shape[0]
            total["all-reduce"] += 2 * layers * SENT["all-reduce"](activation_bytes, tensor)
    return {kind: round(size) for kind, size in sorted(total.items()) if size >= 1}


class _Module:
    """The computations of a module and who calls whom."""

    def __init__(self, hlo: str):
        self.computations: dict[str, list[_Instruction]] = {}
        self.entry = ""
        self.num_devices = _header_number(hlo, "num_partitions") * _header_number(
            hlo, "replica_count"
        )
        current: list[_Instruction] = []
        for line in hlo.splitlines():
            if match := _COMPUTATION.match(line):
                current = self.computations[match[2]] = []
                self.entry = match[2] if match[1] else self.entry
            elif match := _INSTRUCTION.match(line):
                current.append(_instruction(match))
        if not self.entry:
            raise ValueError("this is no HLO module: it has no ENTRY computation")
        self.types = {i.name: i.type for body in self.computations.values() for i in body}

    def collectives(self) -> list[Collective]:
        """What one execution of the module runs."""
        single, pipelined = [], {}
        for found in self._inside(self.entry):
            if not found.pipeline:
                single.append(found)
                continue
            # XLA:TPU spreads one collective over the fusions and loops that it overlaps
            # with; it runs as often as the least frequent of its pieces, its start.
            other = pipelined.get(found.pipeline, found)
            pipelined[found.pipeline] = min(found, other, key=lambda piece: piece.times)
        return single + list(pipelined.values())

    @functools.cache  # noqa: B019 (a module lives as long as the question about it)
    def _inside(self, computation: str) -> list[Collective]:
        """What one execution of a computation runs."""
        return [c for i in self.computations.get(computation, ()) for c in self._of(i)]

    def _of(self, instruction: _Instruction) -> Iterator[Collective]:
        """What one execution of an instruction runs."""
        kind = instruction.opcode.removesuffix("-start")
        if kind in SENT:
            yield self._collective(kind, instruction)
            return
        called = [
            name
            for _, names in _CALLED.findall(instruction.attributes)
            for name in re.findall(r"[\w.-]+", names)
        ]
        inside = [self._inside(name) for name in called]
        if instruction.opcode == "conditional":
            inside = [max(inside, key=lambda found: sum(c.bytes for c in found))]
        found = [collective for part in inside for collective in part]
        if instruction.opcode == "while" and found:
            times = self._trip_count(instruction)
            found = [dataclasses.replace(c, times=c.times * times) for c in found]
        if any(name.startswith("all-reduce-scatter") for name in called):
            # How XLA:TPU spells a reduce-scatter: a fusion of all-reduce and slice.
            found = [dataclasses.replace(c, kind="reduce-scatter") for c in found]
        yield from found

    def _collective(self, kind: str, instruction: _Instruction) -> Collective:
        attributes = instruction.attributes
        source = re.search(r'op_name="([^"]*)"', attributes)
        channel = re.search(r"channel_id=(\d+)", attributes)
        return Collective(
            kind=kind,
            operand_bytes=sum(_bytes(self.types[name]) for name in instruction.operands),
            group=_group_size(attributes, self.num_devices),
            times=1,
            source=source[1] if source else "",
            pipeline=channel[1] if channel and "chain_id=" in attributes else "",
        )

    def _trip_count(self, loop: _Instruction) -> int:
        """From XLA's note, else from a counting loop: i < limit, i += stride, from 0."""
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
            return int(known[1])
        names = re.search(r"condition=%?([\w.-]+), body=%?([\w.-]+)", loop.attributes).groups()
        condition, body = (self.computations[name] for name in names)
        limit = _operand(condition[-1], condition, "constant")
        counter = _operand(condition[-1], condition, "get-tuple-element")
        place = re.search(r"index=(\d+)", counter.attributes) if counter else None
        update = [i for i in body if place and i.name == body[-1].operands[int(place[1])]]
        stride = _operand(update[0], body, "constant") if update else None
        if not limit or not stride or update[0].opcode != "add":
            raise ValueError(f"the length of the loop {loop.name} is not in the HLO")
        return math.ceil(int(limit.operands[0]) / int(stride.operands[0]))


def _operand(
    instruction: _Instruction, computation: list[_Instruction], opcode: str
) -> _Instruction | None:
    """The operand of an instruction that has an opcode."""
    candidates = [i for i in computation if i.opcode == opcode and i.name in instruction.operands]
    return candidates[0] if candidates else None


def _instruction(match: re.Match) -> _Instruction:
    """Of a line such as `%sum.1 = f32[8]{0} add(%a, %b), metadata={...}`."""
    text = match[2]
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    opcode, _, call = text[end:].strip().partition("(")
    close = _closing(f"({call}", 0) - 1
    operands = call[:close]
    names = (operands,) if opcode == "constant" else tuple(re.findall(r"%([\w.-]+)", operands))
    return _Instruction(match[1], text[:end], opcode, names, call[close + 1 :])


def _closing(text: str, start: int) -> int:
    """Where the parenthesis that opens at `start` closes."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return match.start()
    raise ValueError(f"unbalanced parentheses in HLO: {text[:100]}")


def _header_number(hlo: str, name: str) -> int:
    match = re.search(rf"\b{name}=(\d+)", hlo[: hlo.find("\n")])
    return int(match[1]) if match else 1


def _bytes(type_text: str) -> int:
    """Size of an array or tuple type such as `(f32[8,4]{1,0}, bf16[3])`."""
    total = 0
    for dtype, sizes in _SHAPE.findall(type_text):
        bits = 8 if dtype == "pred" else int(_BITS.match(dtype)[1]) if dtype != "token" else 0
        total += math.ceil(math.prod(int(n) for n in sizes.split(",") if n) * bits / 8)
    return total


def _group_size(attributes: str, num_devices: int) -> int:
    """Devices per group, from any of the ways XLA writes groups."""
    text = attributes.partition("replica_groups=")[2]
    if match := re.match(r"\[(\d+),(\d+)\]<=", text):  # [groups, size]<=[...]
        return int(match[2])
    if match := re.match(r"\{\{([\d,]*)\}", text):  # {{0,1},{2,3}}
        return len(match[1].split(","))
    if match := re.match(r"mesh\[(.*?)\][^{]*(?:\(.*?\)\))? ?\{(.*?)\}", text):
        # mesh['a'=4,'b'=2] {'a'}: along axes of a mesh, 'a':(2)4 being a part of one.
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", match[1]))
        axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", match[2])
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    return num_devices
