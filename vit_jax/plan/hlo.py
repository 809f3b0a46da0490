"""Parses compiled modules (HLO text): instructions, calls, and numbers of loop iterations."""

import dataclasses
import math
import re

_BITS = re.compile(r"[a-z]+(\d+)")
_ARRAY = re.compile(r"\b(pred|token|[a-z]+\d+\w*)\[([\d,]*)\](\{[^}]*\})?")
_INSTRUCTION = re.compile(r"\s*(?:ROOT )?%?([\w.-]+) = (.*)")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.-]+) \(.*\{$")
_CALLED = re.compile(
    r"(calls|to_apply|body|called_computations|\w+_computation|branch_computations)"
    r"=(\{[^}]*\}|%?[\w.-]+)"
)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line such as `%sum.1 = f32[8]{0} add(%a, %b), metadata={...}`."""

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]  # names; for a constant its value, for a parameter its number
    attributes: str

    @property
    def called(self) -> list[str]:
        """Computations that it calls."""
        return [
            name
            for _, names in _CALLED.findall(self.attributes)
            for name in re.findall(r"[\w.-]+", names)
        ]


class Module:
    """A module's computations, each a list of instructions in the order of their schedule.

    Args:
      text: optimized HLO, `compiled.as_text()`.

    Raises:
      ValueError: the text is not an HLO module.
    """

    def __init__(self, text: str):
        self.computations: dict[str, list[Instruction]] = {}
        self.entry = ""
        self.num_devices = _header_number(text, "num_partitions") * _header_number(
            text, "replica_count"
        )
        current: list[Instruction] = []
        for line in text.splitlines():
            if match := _COMPUTATION.match(line):
                current = self.computations[match[2]] = []
                self.entry = match[2] if match[1] else self.entry
            elif match := _INSTRUCTION.match(line):
                current.append(_instruction(match))
        if not self.entry:
            raise ValueError("this is no HLO module: it has no ENTRY computation")
        self.types = {i.name: i.type for body in self.computations.values() for i in body}

    def trip_count(self, loop: Instruction) -> int:
        """The number of iterations of a loop.

        It comes from XLA's annotation, else from the loop's counter: i < limit, i += stride,
        from 0.

        Raises:
          ValueError: neither is in the text.
        """
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
            return int(known[1])
        names = re.search(r"condition=%?([\w.-]+), body=%?([\w.-]+)", loop.attributes)
        if not names:
            raise ValueError(f"the loop {loop.name} names no condition and body")
        condition, body = (self.computations[name] for name in names.groups())
        limit = _operand(condition[-1], condition, "constant")
        counter = _operand(condition[-1], condition, "get-tuple-element")
        place = re.search(r"index=(\d+)", counter.attributes) if counter else None
        update = [i for i in body if place and i.name == body[-1].operands[int(place[1])]]
        stride = _operand(update[0], body, "constant") if update else None
        if not limit or not stride or update[0].opcode != "add":
            raise ValueError(f"the length of the loop {loop.name} is not in the HLO")
        return math.ceil(int(limit.operands[0]) / int(stride.operands[0]))


def type_bytes(text: str, *, main_memory: bool = False) -> int:
    """The size in bytes of an array or tuple type such as `(f32[8,4]{1,0}, bf16[3])`.

    Args:
      text: type as text.
      main_memory: whether to leave out arrays placed in a chip's own memory, `{0:S(1)}`.
    """
    total = 0
    for dtype, sizes, layout in _ARRAY.findall(text):
        if main_memory and re.search(r"S\([1-9]", layout):
            continue
        if dtype == "token":
            continue
        named = _BITS.match(dtype)
        if not named and dtype != "pred":
            raise ValueError(f"the type {dtype} is not known")
        bits = int(named[1]) if named else 8
        total += math.ceil(math.prod(int(n) for n in sizes.split(",") if n) * bits / 8)
    return total


def array_shape(text: str) -> tuple[int, ...]:
    """The shape of an array type such as `f32[8,4]{1,0}`.

    Raises:
      ValueError: the text is no array type.
    """
    match = _ARRAY.search(text)
    if not match:
        raise ValueError(f"{text!r} is no array type")
    return tuple(int(n) for n in match[2].split(",") if n)


def _operand(
    instruction: Instruction, computation: list[Instruction], opcode: str
) -> Instruction | None:
    """The operand of an instruction that has the given opcode; None if none has."""
    candidates = [i for i in computation if i.opcode == opcode and i.name in instruction.operands]
    return candidates[0] if candidates else None


def _instruction(match: re.Match) -> Instruction:
    text = match[2]
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    opcode, _, call = text[end:].strip().partition("(")
    close = _closing(f"({call}", 0) - 1
    operands = call[:close]
    literal = opcode in ("constant", "parameter")
    names = (operands,) if literal else tuple(re.findall(r"%([\w.-]+)", operands))
    return Instruction(match[1], text[:end], opcode, names, call[close + 1 :])


def _closing(text: str, start: int) -> int:
    """The position at which the parenthesis opened at `start` closes."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return match.start()
    raise ValueError(f"unbalanced parentheses in HLO: {text[:100]}")


def _header_number(text: str, name: str) -> int:
    match = re.search(rf"\b{name}=(\d+)", text[: text.find("\n")])
    return int(match[1]) if match else 1
