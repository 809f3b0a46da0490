"""Images given in Python: paths, Pillow images, arrays and bytes, read as image files are.

Pillow images and arrays are written as PNG, without loss, and read again: what a model sees does
not depend on the form in which an image was given.
"""

import dataclasses
import io
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from vit_jax.data.batches import plain
from vit_jax.data.named import is_address, read_address
from vit_jax.data.ops.image_files import HEAD_BYTES, MAX_PIXELS
from vit_jax.data.ops.preprocess import Preprocess
from vit_jax.data.pipeline import check_same_size
from vit_jax.data.sources.source import Source
from vit_jax.errors import InputError
from vit_jax.files import expand
from vit_jax.text import reason

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

GivenImage: TypeAlias = "str | os.PathLike[str] | bytes | np.ndarray | PilImage"


def encoded_image(image: GivenImage, name: str = "the image") -> bytes:
    """The bytes of an image file for an image in any form.

    Args:
      image: path of a file, address such as https://host/cat.jpg, bytes of a file, Pillow image,
        or uint8 array (height, width) or (height, width, channels) with 1, 3 or 4 channels; a
        fourth channel, alpha, is dropped.
      name: name of the image in messages.

    Raises:
      InputError: no such file, or something else than an image.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str) and is_address(image):
        return read_address(image)
    if isinstance(image, str | os.PathLike):
        try:
            return expand(os.fspath(image)).read_bytes()
        except OSError as error:
            raise InputError(f"{os.fspath(image)}: {reason(error)}") from None
    from PIL import Image, ImageOps

    if isinstance(image, np.ndarray):
        return _png(Image.fromarray(_pixels(image, name)))
    if isinstance(image, Image.Image):
        try:
            image = ImageOps.exif_transpose(image)
            image.load()
        except (OSError, ValueError, SyntaxError) as error:  # damaged, or closed
            raise InputError(
                f"{name} is a Pillow image that cannot be read: {reason(error)}"
            ) from None
        if image.mode.startswith("I;16"):  # 16 bits: the upper 8, as of files
            return _png(Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)))
        if image.mode in ("I", "F"):
            raise InputError(
                f"{name} is a Pillow image of mode {image.mode}, whose range of values is not "
                "known; scale it to 0 to 255 and convert it to mode L or RGB"
            )
        return _png(image.convert("RGB"))
    raise InputError(
        f"{name} is of type {type(image).__name__}; give a path, the bytes of a file, a Pillow "
        "image or a uint8 array (height, width, 3)"
    )


def read_given(
    images: Sequence[GivenImage],
    preprocess: Preprocess,
    max_pixels: int = MAX_PIXELS,
    start: int = 0,
) -> np.ndarray:
    """Images in any form, preprocessed as image files are in evaluation.

    Args:
      images: see `encoded_image`.
      preprocess: preprocessing of the images.
      max_pixels: largest number of pixels of an image.
      start: number of the first image in messages.

    Returns:
      uint8 (n, h, w, 3).

    Raises:
      InputError: an image cannot be read, or is of another size than the first after preprocessing.
    """
    if not images:
        raise InputError("no images are given")
    preprocess = preprocess.deterministic()
    names = [name_of(image, start + place) for place, image in enumerate(images)]
    source = _GivenSource(
        name="images",
        split="all",
        size=len(images),
        label_names=[],
        max_pixels=max_pixels,
        files=[encoded_image(image, name) for image, name in zip(images, names)],
        names=names,
    )
    read = plain.reader(source, preprocess, source.files.__getitem__)
    found = [read(i, np.zeros((0, 2), np.uint32))["image"] for i in range(len(images))]
    for name, image in zip(names, found):
        check_same_size(name, image, names[0], found[0])
    return np.stack(found)


def name_of(image: GivenImage, number: int) -> str:
    """The path of an image, or "image 3"."""
    return os.fspath(image) if isinstance(image, str | os.PathLike) else f"image {number}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _GivenSource(Source):
    """Image files in memory, with a name each."""

    files: list[bytes]
    names: list[str]

    def fetch(self, index: np.ndarray) -> np.ndarray:
        payloads = np.empty(len(index), object)
        payloads[:] = [self.files[i] for i in index]
        return payloads

    def head(self, index: int) -> bytes:
        return self.files[index][:HEAD_BYTES]

    def describe(self, index: int) -> str:
        return self.names[index]


def _pixels(image: np.ndarray, name: str) -> np.ndarray:
    """An array as (h, w) or (h, w, 3)."""
    if image.dtype != np.uint8:
        raise InputError(
            f"{name} is an array of {image.dtype}; give uint8 from 0 to 255, such as "
            "(image * 255).astype(numpy.uint8) for values from 0 to 1"
        )
    if image.ndim == 3 and image.shape[-1] in (3, 4):
        image = image[..., :3]
    elif image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    elif image.ndim != 2:
        raise InputError(
            f"{name} is an array of shape {image.shape}; give (height, width) or (height, width, "
            "channels) with 1, 3 or 4 channels"
        )
    if 0 in image.shape:
        raise InputError(f"{name} is an array of shape {image.shape}, without a pixel")
    return np.ascontiguousarray(image)


def _png(image: "PilImage") -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=0)
    return file.getvalue()
