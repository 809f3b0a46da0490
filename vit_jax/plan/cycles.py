"""Three estimates of a compiled step's time that stand beside the roofline.

* per operation: each operation takes the longer of its products at the chip's peak and its bytes
  at the memory's bandwidth, one operation after another. The roofline lets all products of a step
  overlap with all of its memory traffic; a TensorCore runs one operation at a time.
* copies beside: the same, but copies that start before other work and end after it take no time of
  their own, as far as the memory's bandwidth allows: other units of the chip carry them out. It is
  a lower bound: the other work may be shorter than the copy.
* compiler: the sum of `estimated_cycles`, which XLA writes beside each instruction, at the chip's
  clock. It is the compiler's own cost model, no measurement. It is close for large products and
  doubtful for vector work, and some instructions have no estimate (copies that run beside others,
  kernels): it ranks variants of a step, it does not predict its time.

In all, loops count once an iteration, and the time of collectives that nothing overlaps is added.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from vit_jax.parallel.hardware import Chip
from vit_jax.plan.collectives import SENT, works_before_done
from vit_jax.plan.hlo import Instruction, Module, array_shape
from vit_jax.plan.roofline import exposed
from vit_jax.plan.traffic import FREE, Traffic

_CYCLES = re.compile(r'"estimated_cycles":"?(\d+)')
_CALLS = ("call", "async-start")
COUNTED = 0.9  # share of a model's products below which some are hidden, as in library calls


@dataclasses.dataclass(frozen=True)
class Operation:
    """An instruction that runs on a device; numbers are of all its executions in a step."""

    name: str
    source: str  # `op_name`: where in the program it comes from
    times: int  # executions
    flops: int  # of its products, each multiplication and addition one
    bytes: int  # to and from main memory
    cycles: int | None  # the compiler's estimate; None: it gives none
    beside: bool = False  # whether it is a copy during which something is computed


def find_operations(module: Module) -> list[Operation]:
    """The operations of one execution of a module, without its collectives.

    Raises:
      ValueError: the text does not give the length of a loop that moves much, or a product's shape.
    """
    return list(_Finder(module).operations(module.entry, 1))


def predict(
    operations: Iterable[Operation], roofline: Mapping[str, Any], step_flops: float, chip: Chip
) -> dict[str, float | None]:
    """Seconds of a step on one device: `per_operation`, `copies_beside` and `compiler`.

    Args:
      operations: operations of the step.
      roofline: result of `roofline.predict`, for the collectives.
      step_flops: FLOPs of one device by the model's formula. If the compiled text shows much less,
        products are hidden in kernels and library calls: `per_operation` and `copies_beside` are
        None.
      chip: chip with its peak speeds, of which a device has its share.

    Returns:
      Each in seconds; `compiler` is None if the compiler gives no cycles, or the chip's clock is
      not known.
    """
    operations = list(operations)
    alone = exposed(roofline)
    flops, bandwidth = (x / chip.devices for x in (chip.bf16_flops, chip.memory_bandwidth))
    times = [max(each.flops / flops, each.bytes / bandwidth) for each in operations]
    waited = sum(time for time, each in zip(times, operations) if not each.beside)
    memory = sum(each.bytes for each in operations) / bandwidth
    cycles = [each.cycles for each in operations if each.cycles is not None]
    shown = sum(each.flops for each in operations) > COUNTED * step_flops
    longest = max(roofline["overlapped"], roofline["between_slices_overlapped"])
    return dict(
        per_operation=max(sum(times), longest) + alone if shown else None,
        copies_beside=max(waited, memory, longest) + alone if shown else None,
        compiler=sum(cycles) / chip.clock + alone if cycles and chip.clock else None,
    )


class _Finder:
    def __init__(self, module: Module):
        self.module = module
        self.traffic = Traffic(module)

    def operations(self, computation: str, times: int, within: bool = False) -> Iterable[Operation]:
        """Those of a computation; `within` says that all of it runs beside something else."""
        body = self.module.computations.get(computation, [])
        beside: set[str] = set()  # starts of copies during which something is computed
        for place, each in enumerate(body):
            if each.opcode.endswith("-start") and works_before_done(body[place:]):
                beside.add(each.name)
            if each.opcode == "while":
                for called in each.called:
                    yield from self.operations(called, times * self.traffic.iterations(each))
            elif each.opcode == "conditional":
                yield from self.operations(max(each.called, key=self.traffic.of), times)
            elif each.opcode in _CALLS:
                for called in each.called:
                    yield from self.operations(called, times, within or each.name in beside)
            elif each.opcode not in FREE and not _is_collective(each):
                # An end names its start; both are parts of one copy.
                ends = each.opcode.endswith("-done") and not beside.isdisjoint(each.operands)
                yield self._operation(each, times, within or ends or each.name in beside)

    def _operation(self, instruction: Instruction, times: int, beside: bool) -> Operation:
        cycles = _CYCLES.search(instruction.attributes)
        source = re.search(r'op_name="([^"]*)"', instruction.attributes)
        flops = times * self._flops(instruction)
        return Operation(
            name=instruction.name,
            source=source[1] if source else "",
            times=times,
            flops=flops,
            bytes=times * self.traffic.of_instruction(instruction),
            cycles=times * int(cycles[1]) if cycles else None,
            beside=beside and not flops,
        )

    def _flops(self, instruction: Instruction) -> int:
        if instruction.opcode in ("dot", "convolution"):
            return product_flops(instruction, self.module.types)
        if instruction.opcode == "fusion":
            bodies = (self.module.computations[called] for called in instruction.called)
            return sum(self._flops(each) for body in bodies for each in body)
        return 0


def _is_collective(instruction: Instruction) -> bool:
    return instruction.opcode.removesuffix("-start").removesuffix("-done") in SENT


def product_flops(instruction: Instruction, types: Mapping[str, str]) -> int:
    """FLOPs of a `dot` or a `convolution`: two for each pair of numbers that it multiplies.

    A TPU's products are convolutions. Places of their window that lie in the padding, or between
    the numbers of a dilated operand, cost nothing.

    Raises:
      ValueError: the text lacks the operands' types, or which of their axes are which.
    """
    found = array_shape(instruction.type)
    left, right = (array_shape(types.get(name, "")) for name in instruction.operands[:2])
    text = instruction.attributes
    if instruction.opcode == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", text)
        axes = contracted[1].split(",") if contracted and contracted[1] else []
        return 2 * math.prod(found) * math.prod(left[int(axis)] for axis in axes)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", text)
    if not labels:
        raise ValueError(f"the convolution {instruction.name} has no dim_labels")
    lhs, rhs, out = labels.groups()
    pairs = found[out.index("b")] * found[out.index("f")] * right[rhs.index("i")]
    window = _Window(text)
    for number, axis in enumerate(sorted(filter(str.isdigit, out))):
        pairs *= window.hits(number, left[lhs.index(axis)], found[out.index(axis)])
    return 2 * pairs


class _Window:
    """The window of a convolution, as in `window={size=3x1 pad=1_1x0_0 rhs_dilate=2x1}`."""

    def __init__(self, text: str):
        window = re.search(r"window=\{([^}]*)\}", text)
        self.fields = dict(re.findall(r"(\w+)=(\S+)", window[1])) if window else {}

    def _number(self, field: str, axis: int) -> int:
        return int(self.fields[field].split("x")[axis]) if field in self.fields else 1

    def hits(self, axis: int, size: int, results: int) -> int:
        """Pairs of a result and a place of the window that meet one of `size` numbers."""
        dilation = self._number("lhs_dilate", axis)
        low = 0
        if "pad" in self.fields:
            low = int(self.fields["pad"].split("x")[axis].split("_")[0])
        places = np.arange(results)[:, None] * self._number("stride", axis) - low
        window = np.arange(self._number("size", axis)) * self._number("rhs_dilate", axis)
        met = places + window
        inside = (met >= 0) & (met <= (size - 1) * dilation) & (met % dilation == 0)
        return int(inside.sum())
