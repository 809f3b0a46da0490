"""Memory traffic of a compiled step: bytes between a device and its main memory."""

import functools

from vit_jax.plan.hlo import Instruction, Module, type_bytes

# Instructions that name arrays, or wait for them, but move nothing.
FREE = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("opt-barrier", "partition-id", "replica-id", "domain", "add-dependency"),
)
_SLICES = ("dynamic-slice", "slice", "gather")
_UPDATE = "dynamic-update-slice"
NEGLIGIBLE = 2**20  # bytes; a loop of unknown length that moves less an iteration counts once


def memory_traffic(module: Module) -> int:
    """Bytes that one execution of a module reads from and writes to main memory.

    Each instruction reads its operands and writes its result once. Intermediate results
    inside a fusion cost nothing, a slice costs only its own size, and an update in place
    only the updated part. A loop counts once per iteration. Arrays that the compiler has
    placed in the chip's own memory (VMEM of a TPU) are free: copying them there is an
    instruction that counts.

    Raises:
      ValueError: the text does not give the length of a loop that moves more than NEGLIGIBLE.
    """
    return Traffic(module).of(module.entry)


class Traffic:
    """Bytes moved by a module's computations and instructions; see `memory_traffic`."""

    def __init__(self, module: Module):
        self.module = module

    @functools.cache  # noqa: B019 (the object is short-lived)
    def of(self, computation: str) -> int:
        """Bytes of one execution of a computation."""
        return sum(self.of_instruction(i) for i in self.module.computations.get(computation, ()))

    def of_instruction(self, instruction: Instruction) -> int:
        """Bytes of one execution of an instruction."""
        opcode = instruction.opcode
        if opcode in FREE:
            return 0
        if opcode == "fusion":
            return self._fusion(instruction)
        if opcode == "while":
            return self._loop(instruction)
        if opcode == "conditional":
            return max(map(self.of, instruction.called))
        if opcode in ("call", "async-start"):
            return sum(map(self.of, instruction.called))
        start, done = opcode.removesuffix("-start"), opcode.removesuffix("-done")
        if start in _SLICES and start != opcode or opcode == "async-done":
            return 0
        if done in _SLICES and done != opcode:
            return type_bytes(instruction.type) + _size(instruction.type)
        if start != opcode:
            return self._read(instruction)
        if done != opcode:
            return _size(instruction.type)
        if opcode == "custom-call" and not instruction.operands:
            return 0  # only reserves memory, which others write
        if opcode in ("send", "recv"):  # what arrives is counted at recv-done
            return self._read(instruction)
        if opcode in _SLICES:
            return 2 * _size(instruction.type)
        if opcode == _UPDATE:
            return 2 * self._size_of(instruction.operands[1])
        return self._read(instruction) + _size(instruction.type)

    def _loop(self, loop: Instruction) -> int:
        return self.iterations(loop) * sum(map(self.of, loop.called))

    def iterations(self, loop: Instruction) -> int:
        """The length of a loop; 1 if it is not in the text and an iteration moves little."""
        try:
            return self.module.trip_count(loop)
        except ValueError:
            # Such as the rejection loop that draws from a Beta distribution, for mixup.
            if sum(map(self.of, loop.called)) > NEGLIGIBLE:
                raise
            return 1

    def _read(self, instruction: Instruction) -> int:
        return sum(map(self._size_of, instruction.operands))

    def _size_of(self, name: str) -> int:
        return _size(self.module.types.get(name, ""))

    def _fusion(self, fusion: Instruction) -> int:
        """Bytes that a fusion reads and writes."""
        read, written = 0, _size(fusion.type)
        for number, operand in enumerate(fusion.operands):
            if size := self._size_of(operand):
                part, kept = self._part(fusion.called[0], str(number), size)
                read += part
                written -= kept
        return read + max(written, 0)

    def _part(self, computation: str, number: str, size: int) -> tuple[int, int]:
        """For a fusion's parameter of this size: bytes read, and kept by an update in place."""
        body = self.module.computations[computation]
        names = {i.name for i in body if i.opcode == "parameter" and i.operands == (number,)}
        read, kept = 0, 0
        for user in body:
            if not (places := [i for i, name in enumerate(user.operands) if name in names]):
                continue
            if user.opcode == "bitcast":
                names.add(user.name)
            elif user.opcode in _SLICES and places == [0]:
                read += type_bytes(user.type)
            elif user.opcode == _UPDATE and places == [0]:
                kept += size - type_bytes(self.module.types[user.operands[1]])
            elif user.opcode == "fusion":
                for place in places:
                    more = self._part(user.called[0], str(place), size)
                    read, kept = read + more[0], kept + more[1]
            else:
                return size, 0
        return min(read, size), kept


def _size(type_text: str) -> int:
    return type_bytes(type_text, main_memory=True)
