"""Numbers of a few bits."""

from vit_jax.errors import InputError


class Bits:
    """Takes numbers from bytes.

    Args:
      data: the bytes.
      lowest_first: whether a byte's lowest bit comes first, as in JPEG XL, or its highest, as
        in AV1.
    """

    def __init__(self, data: bytes, *, lowest_first: bool):
        self._rest = int.from_bytes(data, "little" if lowest_first else "big")
        self._left, self._lowest_first = 8 * len(data), lowest_first

    def take(self, count: int) -> int:
        """The next `count` bits as a number.

        Raises:
          InputError: there are fewer.
        """
        if count > self._left:
            raise InputError("the image is truncated")
        self._left -= count
        if self._lowest_first:
            value, self._rest = self._rest & ((1 << count) - 1), self._rest >> count
            return value
        value = self._rest >> self._left
        self._rest &= (1 << self._left) - 1
        return value
