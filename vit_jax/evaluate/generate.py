"""Completes images by a model of pixels, or draws new ones."""

import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import data, models
from vit_jax.checkpoint.load import load
from vit_jax.errors import InputError
from vit_jax.evaluate.predict import find_images
from vit_jax.models.layers import normalize_pixels
from vit_jax.models.pixels.generate import complete
from vit_jax.models.vit_config import ViTConfig
from vit_jax.text import reason

MAX_BATCH = 8


def generate(
    checkpoint: str,
    images: Sequence[str] = (),
    *,
    samples: int = 4,
    keep: float = 0.5,
    temperature: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
    use_ema: bool = False,
) -> list[np.ndarray]:
    """Completes images from their upper part, or draws whole images.

    Args:
      checkpoint: workdir, checkpoint or weight file of an autoregressive model of pixels.
      images: image files, folders and patterns; without any, whole images are drawn.
      samples: number of completions of each image, or of images drawn.
      keep: share of an image's rows that is kept, the upper ones.
      temperature: logits are divided by it; 0: always the most probable colour.
      top_k: number of most probable colours to draw from; 0: all.
      seed: of what is drawn.
      use_ema: whether to use averaged parameters.

    Returns:
      For each image, uint8 (1 + samples, H, W, 3): the image in the model's colours, then its
      completions. Without images, one array (samples, H, W, 3).

    Raises:
      InputError: the model draws no pixels, an image cannot be read, or a number out of range.
    """
    _check(samples, keep, temperature, top_k)
    model, info = load(checkpoint, use_ema=use_ema)
    config = info.config
    if not isinstance(config, ViTConfig) or not config.color_head:
        raise InputError(
            f"{checkpoint} is a {info.name} that draws no pixels: that needs model.palette and "
            "model.color_head, as iGPT has"
        )
    if not config.autoregressive:
        raise InputError(
            f"{checkpoint} sees all pixels at once and draws none: that needs "
            "model.attention_kind 'causal', local_1d, local_2d or sparse(causal=True)"
        )
    if top_k > config.palette:
        raise InputError(f"top_k is {top_k}, the model has {config.palette} colours")
    height, width = config.image_size
    given = round(keep * height) * width if images else 0
    pp = data.parse(info.pp)
    graphdef, params = models.split(model)

    @jax.jit
    def reduced(params: Any, images: jax.Array) -> jax.Array:
        own: Any = models.merge(graphdef, params)
        return own.embedding.tokens(normalize_pixels(images, pp.mean, pp.std))

    @jax.jit
    def drawn(params: Any, tokens: jax.Array, key: jax.Array) -> jax.Array:
        own: Any = models.merge(graphdef, params)
        return complete(own, tokens, given, key, temperature=temperature, top_k=top_k)

    palette = np.asarray(params["embedding"]["palette"]) * pp.std + pp.mean
    colors = np.rint(np.clip(255 * palette, 0, 255)).astype(np.uint8)

    def shown(tokens: np.ndarray) -> np.ndarray:
        return colors[tokens].reshape(-1, height, width, 3)

    starts = np.zeros((1, height * width), np.int32)
    if images:
        starts = np.asarray(reduced(params, data.load_images(find_images(images), pp)))
    rows = np.repeat(starts, samples, axis=0)
    batch = min(MAX_BATCH, len(rows))
    padded = np.pad(rows, ((0, -len(rows) % batch), (0, 0)))
    keys = jax.random.split(jax.random.key(seed), len(padded) // batch)
    parts = [
        np.asarray(drawn(params, jnp.asarray(padded[i * batch : (i + 1) * batch]), key))
        for i, key in enumerate(keys)
    ]
    found = np.concatenate(parts)[: len(rows)].reshape(len(starts), samples, -1)
    if not images:
        return [shown(found[0])]
    return [shown(np.concatenate([start[None], own])) for start, own in zip(starts, found)]


def _check(samples: int, keep: float, temperature: float, top_k: int) -> None:
    if samples < 1 or top_k < 0:
        raise InputError(f"samples is {samples}, top_k {top_k}; give 1 or more, and 0 or more")
    if not 0 <= keep <= 1:
        raise InputError(f"keep is {keep}; give a share of the rows, from 0 to 1")
    if not 0 <= temperature < math.inf:
        raise InputError(f"temperature is {temperature}; give 0 or a positive number")


def write_sheet(path: str | Path, images: np.ndarray, scale: int = 4) -> None:
    """Writes images (n, H, W, 3) side by side as a PNG, each pixel `scale` times as large.

    Raises:
      InputError: the file cannot be written.
    """
    framed = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255)
    sheet = np.concatenate(list(framed), axis=1).repeat(scale, axis=0).repeat(scale, axis=1)
    try:
        Path(path).write_bytes(_png(sheet))
    except OSError as error:
        raise InputError(f"{path} cannot be written: {reason(error)}") from error


def _png(image: np.ndarray) -> bytes:
    """A PNG of an image, uint8 (H, W, 3)."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    height, width = image.shape[:2]
    rows = np.pad(image.reshape(height, -1), ((0, 0), (1, 0)))  # each row begins with its filter
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [
            chunk(b"IHDR", header),
            chunk(b"IDAT", zlib.compress(rows.astype(np.uint8).tobytes())),
            chunk(b"IEND", b""),
        ]
    )
