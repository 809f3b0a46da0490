"""The collectives of a compiled step, and the bytes that they move.

Bytes are those that one device sends in one step (it receives as many) if every collective
runs as a ring over the n devices of its group: the algorithm that needs the least
bandwidth. If each device holds operands of s bytes, it sends

  all-reduce            2 s (n - 1) / n    a reduce-scatter followed by an all-gather
  reduce-scatter          s (n - 1) / n
  all-to-all              s (n - 1) / n
  all-gather              s (n - 1)        s is a shard, n s the result
  collective-permute      s

A collective in a loop counts once per iteration: scanned blocks run depth times.

XLA:TPU cuts a collective over several slices into one within each slice, over the fast network,
and one between slices, over the data-centre network. It writes the latter as a `send` and a
`recv` that the runtime (Megascale) carries out. They count by the same formulas, n being the
number of slices: gradients of S bytes, summed over k slices of m devices each, cost a device
2 (m - 1) / m S within its slice and 2 (k - 1) / (k m) S between them.
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
import numpy as np
from jax.sharding import Mesh

from vit_jax.parallel.rules import STACKED
from vit_jax.plan.hlo import Instruction, Module, type_bytes
from vit_jax.trees import path_name

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
# Parameters that are used in float32 whatever the dtype of matrix products.
FULL_PRECISION = r"(^|/)(norm\d?|query_norm|key_norm|pre_logits|head|head_dist)/"
# The first kernel of each branch that tensor parallelism splits.
ENTERS_BRANCH = r"blocks/(attention/qkv|mlp/(fc1|gated))/kernel$"
# The kernel of each block that makes keys and values.
HAS_KEYS = r"blocks/(.*/)?attention/qkv/kernel$"
# Operations that count as computation during a collective.
_WORK = ("fusion", "dot", "convolution", "custom-call", "while", "call")
# What a `send` between slices says: its kind, the slices, a name that its `recv` shares.
_TRANSFER = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
_TARGET = re.compile(r'_xla_megascale_target="?\{+([\d:,]+)')  # {1,2}x{0:3} or {{7,8},{9,10}}
_RENDEZVOUS = re.compile(r'_xla_host_transfer_rendezvous="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective instruction."""

    kind: str  # a key of SENT
    operand_bytes: int  # on each device
    group: int  # devices that take part
    times: int  # executions per step
    source: str  # the operation of the program from which it comes
    pipeline: str = ""  # pieces of one pipelined collective share this name
    overlapped: bool = False  # whether something is computed while it is under way
    members: tuple[int, ...] = ()  # positions in the mesh of one group's devices
    between_slices: bool = False  # whether it uses the data-centre network; the group is of slices

    @property
    def bytes(self) -> int:
        """Bytes that a device sends per step."""
        return round(self.times * SENT[self.kind](self.operand_bytes, self.group))


def find_collectives(module: Module) -> list[Collective]:
    """The collectives that one execution of a compiled module runs.

    Raises:
      ValueError: the text does not give the length of a loop with collectives in it.
    """
    return _Finder(module).collectives()


def by_kind(found: Iterable[Collective]) -> dict[str, int]:
    """Bytes a device sends per step, by kind of collective."""
    total: collections.Counter[str] = collections.Counter()
    for collective in found:
        total[collective.kind] += collective.bytes
    return dict(sorted(total.items()))


def between_slices(found: Iterable[Collective]) -> list[Collective]:
    """The collectives that use the data-centre network."""
    return [collective for collective in found if collective.between_slices]


def minimum(
    params: Any,
    mesh: Mesh,
    *,
    batch_shards: int,
    dtype: str,
    microbatches: int = 1,
    activation_bytes: int = 0,
    rounds: bool = False,
) -> dict[str, int]:
    """Bytes a device must send per step for a layout, by kind of collective.

    * Gradients are summed over the devices that share a parameter: one all-reduce; over
      fsdp a reduce-scatter for every microbatch, as no device has room for the whole.
    * fsdp gathers each parameter for every microbatch: those of blocks in the forward and
      again in the backward pass, others once.
    * tensor sums the outputs of attention and MLP of each block, and in the backward pass the
      gradients of their inputs: four all-reduces of the activations.
    * sequence gathers each block's keys and values, and sums and scatters their gradients.

    Weights and gradients are sent in the dtype in which they are multiplied. Small
    collectives that every layout needs, such as the mean of the loss, are not counted.

    Args:
      params: pytree of arrays or ShapeDtypeStructs with their shardings.
      mesh: mesh of the run.
      batch_shards: number of parts into which the batch is cut.
      dtype: dtype of matrix products, `config.model.dtype`.
      microbatches: number of microbatches per step, `config.parallel.accumulate`.
      activation_bytes: bytes of one block's input on one device, over all microbatches.
      rounds: whether float32 products round their operands to bfloat16, the default on TPUs;
        weights are then gathered in bfloat16, while gradients stay float32.
    """
    total: dict[str, float] = collections.defaultdict(float)
    fsdp, tensor = mesh.shape.get("fsdp", 1), mesh.shape.get("tensor", 1)
    sequence = mesh.shape.get("sequence", 1)
    shards = batch_shards * sequence  # devices that have a part of a gradient's sum
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name, spec = path_name(path), leaf.sharding.spec
        parts = fsdp if "fsdp" in spec else 1
        itemsize = sent_itemsize(name, leaf, dtype)
        size = leaf.size * itemsize / (tensor if "tensor" in spec else 1)
        gathers = microbatches * (2 if re.search(STACKED, name) else 1)
        gathered = size * min(itemsize, 2) / itemsize if rounds else size
        total["all-gather"] += gathers * SENT["all-gather"](gathered / parts, parts)
        total["reduce-scatter"] += microbatches * SENT["reduce-scatter"](size, parts)
        total["all-reduce"] += SENT["all-reduce"](size / parts, shards // parts)
        if "tensor" in spec and re.search(ENTERS_BRANCH, name):
            layers = leaf.shape[0]
            total["all-reduce"] += 2 * layers * SENT["all-reduce"](activation_bytes, tensor)
        if re.search(HAS_KEYS, name):  # each device's heads of its own tokens
            own = activation_bytes / (tensor if "tensor" in spec else 1)
            layers = 2 * leaf.shape[0]  # keys and values
            total["all-gather"] += layers * SENT["all-gather"](own, sequence)
            total["reduce-scatter"] += layers * SENT["reduce-scatter"](own * sequence, sequence)
    return {kind: round(size) for kind, size in sorted(total.items()) if size >= 1}


def minimum_between_slices(
    params: Any, mesh: Mesh, *, slices: int, batch_shards: int, dtype: str
) -> int:
    """The part of `minimum` that a device must send to other slices: the sum of the gradients.

    Within its slice a device first gets the sum of its share, one part in `batch_shards` /
    `slices`; a ring of the slices then sums the shares.

    Args:
      params: as in `minimum`.
      mesh: mesh of the run; its axis replica crosses the slices.
      slices: number of slices.
      batch_shards: number of parts into which the batch is cut.
      dtype: dtype of matrix products.
    """
    total = 0.0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        tensor = mesh.shape["tensor"] if "tensor" in leaf.sharding.spec else 1
        size = leaf.size * sent_itemsize(path_name(path), leaf, dtype) / tensor
        shards = batch_shards * mesh.shape.get("sequence", 1)
        total += SENT["all-reduce"](size * slices / shards, slices)
    return round(total)


def sent_itemsize(name: str, leaf: Any, dtype: str) -> int:
    """Bytes per value of a parameter, or of its gradient, as it is sent."""
    if re.search(FULL_PRECISION, name):
        return leaf.dtype.itemsize
    return min(leaf.dtype.itemsize, jnp.dtype(dtype).itemsize)


class _Finder:
    """Walks through a module in the order of its execution."""

    def __init__(self, module: Module):
        self.module = module

    def collectives(self) -> list[Collective]:
        """The collectives of one execution of the module."""
        single: list[Collective] = []
        pipelined: dict[str, Collective] = {}
        for found in self._inside(self.module.entry):
            if not found.pipeline:
                single.append(found)
                continue
            # XLA:TPU spreads one collective over the fusions and loops with which it overlaps;
            # it runs as often as its start, the least frequent of the pieces.
            other = pipelined.get(found.pipeline, found)
            pipelined[found.pipeline] = min(found, other, key=lambda piece: piece.times)
        return single + list(pipelined.values())

    @functools.cache  # noqa: B019 (the object is short-lived, like its module)
    def _inside(self, computation: str) -> list[Collective]:
        """The collectives of one execution of a computation."""
        body = self.module.computations.get(computation, [])
        return [c for i, instruction in enumerate(body) for c in self._of(instruction, body[i:])]

    def _of(self, instruction: Instruction, rest: list[Instruction]) -> Iterator[Collective]:
        """The collectives of one execution of an instruction, the first of those in `rest`."""
        if instruction.opcode == "send" and (transfer := _TRANSFER.search(instruction.attributes)):
            yield self._transfer(transfer[1], instruction, rest)
            return
        kind = instruction.opcode.removesuffix("-start")
        overlapped = instruction.opcode.endswith("-start") and works_before_done(rest)
        if kind in SENT:
            yield self._collective(kind, instruction, overlapped)
            return
        called = instruction.called
        inside = [self._inside(name) for name in called]
        if instruction.opcode == "conditional":
            inside = [max(inside, key=lambda found: sum(c.bytes for c in found))]
        found = [collective for part in inside for collective in part]
        if instruction.opcode == "while" and found:
            times = self.module.trip_count(instruction)
            found = [dataclasses.replace(c, times=c.times * times) for c in found]
        if any(name.startswith("all-reduce-scatter") for name in called):
            # XLA:TPU writes a reduce-scatter as a fusion of all-reduce and slice.
            found = [dataclasses.replace(c, kind="reduce-scatter") for c in found]
        for c in found:
            yield dataclasses.replace(c, overlapped=c.overlapped or overlapped)

    def _collective(self, kind: str, instruction: Instruction, overlapped: bool) -> Collective:
        attributes = instruction.attributes
        channel = re.search(r"channel_id=(\d+)", attributes)
        members = _members(attributes, self.module.num_devices)
        pipeline = channel[1] if channel and "chain_id=" in attributes else ""
        return Collective(
            kind=kind,
            operand_bytes=sum(type_bytes(self.module.types[name]) for name in instruction.operands),
            group=len(members),
            times=1,
            source=_source(attributes),
            pipeline=pipeline,
            overlapped=overlapped or bool(pipeline),
            members=tuple(members.tolist()),
        )

    def _transfer(self, kind: str, send: Instruction, rest: list[Instruction]) -> Collective:
        """The collective between slices that a `send` begins, the first of those in `rest`."""
        kind = kind.lower().replace("_", "-").replace("one-to-one", "collective-permute")
        target = _TARGET.search(send.attributes)
        if kind not in SENT or not target:
            raise ValueError(f"the transfer {send.name} between slices is not understood")
        return Collective(
            kind=kind,
            operand_bytes=type_bytes(self.module.types[send.operands[0]]),
            group=_count(target[1]),
            times=1,
            source=_source(send.attributes),
            overlapped=_works_before_arrival(rest),
            between_slices=True,
        )


def _source(attributes: str) -> str:
    """The operation of the program from which an instruction comes, "" where it does not say."""
    source = re.search(r'op_name="([^"]*)"', attributes)
    return source[1] if source else ""


def _count(text: str) -> int:
    """How many numbers a text such as "1,2" or "1:4" names."""
    parts = [_numbers(part) for part in text.split(",")]
    return sum(part[-1] - part[0] + 1 for part in parts)


def _works_before_arrival(rest: list[Instruction]) -> bool:
    """Whether anything else is done between the first instruction, a send, and its answer."""
    names = _RENDEZVOUS.findall(rest[0].attributes)
    answers = {
        i.name for i in rest if i.opcode == "recv" and _RENDEZVOUS.findall(i.attributes) == names
    }
    for instruction in rest[1:]:
        if instruction.opcode == "recv-done" and answers & set(instruction.operands):
            return False
        works = instruction.opcode in _WORK and not _reserves(instruction)
        if works or instruction.opcode.removesuffix("-start") in SENT:
            return True
    return False


def works_before_done(rest: list[Instruction]) -> bool:
    """Whether anything is computed between the first instruction, a start, and its end."""
    for instruction in rest[1:]:
        if instruction.opcode.endswith("-done") and rest[0].name in instruction.operands:
            return False
        if instruction.opcode in _WORK and not _reserves(instruction):
            return True
    return False


def _reserves(instruction: Instruction) -> bool:
    """Whether a call only reserves memory, which others write."""
    return instruction.opcode == "custom-call" and not instruction.operands


def _members(attributes: str, num_devices: int) -> np.ndarray:
    """The devices of the first group, from any of the notations of XLA."""
    text = attributes.partition("replica_groups=")[2]
    if match := re.match(r"\[(\d+),(\d+)\]<=(\[[\d,]*\](?:T\([\d,]*\))?)", text):
        return _iota(match[3]).reshape(int(match[1]), int(match[2]))[0]
    if match := re.match(r"\{\{([\d,]*)\}", text):  # {{0,1},{2,3}}
        return np.array(_numbers(match[1]))
    if match := re.match(r"mesh\[(.*?)\][^{]*?(?:device_ids=\((.*?\]\S*)\))? ?\{(.*?)\}", text):
        # mesh['a'=4,'b'=2] {'a'}: along axes of a mesh, 'a':(2)4 being a part of one.
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", match[1])}
        ids = _iota(match[2]) if match[2] else np.arange(math.prod(sizes.values()))
        ids = ids.reshape(tuple(sizes.values()))
        taken = {name: slice(0, 1) for name in sizes}
        for name, before, part in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", match[3]):
            after = sizes[name] // (int(before) * int(part)) if part else 1
            taken[name] = slice(0, int(part) * after if part else None, after)
        return ids[tuple(taken.values())].ravel()
    return np.arange(num_devices)


def _iota(text: str) -> np.ndarray:
    """Numbers of an iota such as "[2,4]T(1,0)": 0, 1, ... in that shape, transposed, flattened."""
    shape, _, order = text.partition("T")
    ids = np.arange(math.prod(_numbers(shape))).reshape(_numbers(shape))
    return (ids.transpose(_numbers(order)) if order else ids).ravel()


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]
