"""Memory traffic of a compiled step: bytes that pass between a device and its main memory."""

import functools

from vit_jax.analyze.hlo import Instruction, Module, type_bytes

# They name arrays, or wait for them, but move nothing.
_FREE = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("opt-barrier", "partition-id", "replica-id", "domain", "add-dependency"),
)
_SLICES = ("dynamic-slice", "slice", "gather")
_UPDATE = "dynamic-update-slice"


def memory_traffic(module: Module) -> int:
    """Bytes that one execution of a module reads from and writes to main memory.

    Each instruction reads its operands and writes its result once; what a fusion keeps
    to itself costs nothing, a slice costs what it takes and an update in place what it
    writes. A loop counts as often as it turns. Arrays that the compiler has placed in the
    chip's own memory (VMEM of a TPU) are free: copying them there is an instruction.

    Raises:
      ValueError: a loop whose length is not in the text.
    """
    return _Traffic(module).of(module.entry)


class _Traffic:
    def __init__(self, module: Module):
        self.module = module

    @functools.cache  # noqa: B019 (lives as long as the question)
    def of(self, computation: str) -> int:
        """Of one execution of a computation."""
        return sum(self._of(i) for i in self.module.computations.get(computation, ()))

    def _of(self, instruction: Instruction) -> int:
        opcode = instruction.opcode
        if opcode in _FREE:
            return 0
        if opcode == "fusion":
            return self._fusion(instruction)
        if opcode == "while":
            return self.module.trip_count(instruction) * sum(map(self.of, instruction.called))
        if opcode == "conditional":
            return max(map(self.of, instruction.called))
        if opcode in ("call", "async-start"):
            return sum(map(self.of, instruction.called))
        if opcode.endswith("-start"):
            return self._read(instruction)
        if opcode == "async-done":
            return 0
        if opcode.endswith("-done"):
            return _size(instruction.type)
        if opcode == "custom-call" and not instruction.operands:
            return 0  # memory for what others write
        if opcode in _SLICES:
            return 2 * _size(instruction.type)
        if opcode == _UPDATE:
            return 2 * self._size_of(instruction.operands[1])
        return self._read(instruction) + _size(instruction.type)

    def _read(self, instruction: Instruction) -> int:
        return sum(map(self._size_of, instruction.operands))

    def _size_of(self, name: str) -> int:
        return _size(self.module.types.get(name, ""))

    def _fusion(self, fusion: Instruction) -> int:
        """What enters and leaves a fusion, of sliced operands and updates only the part."""
        body = self.module.computations[fusion.called[0]]
        uses: dict[str, list[tuple[Instruction, int]]] = {}
        for instruction in body:
            for place, operand in enumerate(instruction.operands):
                uses.setdefault(operand, []).append((instruction, place))
        read, written = 0, _size(fusion.type)
        for parameter in (i for i in body if i.opcode == "parameter"):
            size = self._size_of(fusion.operands[int(parameter.operands[0])])
            users = _users(parameter, uses)
            if size and all(user.opcode in _SLICES and not place for user, place in users):
                size = min(size, sum(type_bytes(user.type) for user, _ in users))
            elif size and all(user.opcode == _UPDATE and not place for user, place in users):
                part = sum(type_bytes(self.module.types[user.operands[1]]) for user, _ in users)
                written -= size - part
                size = 0
            read += size
        return read + max(written, 0)


def _users(
    array: Instruction, uses: dict[str, list[tuple[Instruction, int]]]
) -> list[tuple[Instruction, int]]:
    """Who uses an array, by whatever name, and as which operand."""
    result = []
    for user, place in uses.get(array.name, ()):
        result += _users(user, uses) if user.opcode == "bitcast" else [(user, place)]
    return result


def _size(type_text: str) -> int:
    return type_bytes(type_text, main_memory=True)
