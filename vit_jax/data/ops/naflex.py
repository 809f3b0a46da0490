"""Images of any size and aspect ratio as a fixed number of patches (NaFlex, 2502.14786)."""

import math

import numpy as np

from vit_jax.data.ops.op import Op, Size, is_int, operation
from vit_jax.data.ops.resample import resize_batch
from vit_jax.models.naflex import pack, packed_size

METHODS = ("bilinear", "bicubic")
SMALLEST, LARGEST, _TOLERANCE = 1e-6, 100.0, 1e-5  # of the scale, as in transformers


def halvings() -> int:
    """The number of steps in which `Naflex.grid` finds the scale."""
    return math.ceil(math.log2((LARGEST - SMALLEST) / _TOLERANCE))


@operation("naflex")
class Naflex(Op):
    """Resizes to at most `patches` patches of `patch` pixels, aspect ratio kept, and cuts it up.

    The image is scaled as much as fits, each side up to a whole number of patches, with Pillow's
    antialiasing. The result is the packed form of `vit_jax.models.naflex.pack`.
    """

    patches: int = 256
    patch: int = 16
    method: str = "bilinear"

    def __post_init__(self):
        """Checks the arguments."""
        for field, least, most in (("patches", 1, 65_535), ("patch", 2, 1024)):
            value = getattr(self, field)
            ok = is_int(value) and least <= value <= most
            self.require(ok, field, f"a whole number from {least} to {most}")
        self.require(self.method in METHODS, "method", " or ".join(METHODS))

    def output_size(self, size: Size | None) -> Size:
        """Size of the packed form, whatever the image's."""
        return packed_size(self.patches, self.patch)

    def grid(self, size: Size) -> Size:
        """(rows, columns) of patches of an image of (height, width) pixels."""
        low, high = SMALLEST, LARGEST
        while high - low >= _TOLERANCE:
            scale = (low + high) / 2
            rows, columns = (self._count(side, scale) for side in size)
            low, high = (scale, high) if rows * columns <= self.patches else (low, scale)
        rows, columns = (self._count(side, low) for side in size)
        return rows, columns

    def _count(self, side: int, scale: float) -> int:
        return max(1, int(np.ceil(side * scale / self.patch)))

    def tensorflow(self, image, words):
        from vit_jax.data._tf import tf

        packed = tf.numpy_function(self._packed, [image], tf.uint8, stateful=False)
        return tf.ensure_shape(packed, [*packed_size(self.patches, self.patch), 3])

    def batched(self, images, words, xp):
        colour = np.broadcast_to(images, (*images.shape[:3], 3))
        return np.stack([self._packed(image) for image in colour])

    def _packed(self, image: np.ndarray) -> np.ndarray:
        """One image, uint8 (h, w, 3), resized and packed."""
        rows, columns = self.grid(image.shape[:2])
        patch = self.patch
        (image,) = resize_batch(image[None], (rows * patch, columns * patch), self.method, True, np)
        patches = image.reshape(rows, patch, columns, patch, 3).swapaxes(1, 2)
        patches = patches.reshape(rows * columns, patch, patch, 3)
        padding = ((0, self.patches - len(patches)), (0, 0), (0, 0), (0, 0))
        return pack(np.pad(patches, padding), (rows, columns))
