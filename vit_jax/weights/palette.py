"""The palette of a model of pixels: from a file, or by k-means on training images.

iGPT (Chen et al. 2020, section 3.2) has 512 colours, 9 bits, by k-means on ImageNet.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.data import Preprocess, Source, eval_batches
from vit_jax.errors import InputError
from vit_jax.files import expand
from vit_jax.parallel.agree import from_first
from vit_jax.text import first_line, reason

IMAGES = 4096  # of the training data, drawn at random, from which colours are found
PIXELS = 400_000  # of these images, likewise
_BATCH = 128


def read_palette(path: str | Path, colors: int) -> np.ndarray:
    """Reads colours from a file.

    Args:
      path: .npy file, such as OpenAI's kmeans_centers.npy; or preprocessor_config.json of
        transformers, or a directory that holds it. Values are from -1 to 1.
      colors: number of colours K.

    Returns:
      (K, 3) in float32.

    Raises:
      InputError: the file cannot be read, or holds something else.
    """
    file = expand(path)
    if file.is_dir():
        file = file / "preprocessor_config.json"
    try:
        if file.suffix == ".json":
            document = json.loads(file.read_text())
            found = np.array(document["clusters"], np.float32)
        else:
            # Mapped, so that a header that claims more than the file holds reserves no memory.
            found = np.load(file, mmap_mode="r", allow_pickle=False)
            if not isinstance(found, np.ndarray):
                raise ValueError("an archive")
            if found.shape == (colors, 3):
                found = found.astype(np.float32, casting="same_kind")
    except (OSError, ValueError, TypeError, KeyError, EOFError, RecursionError) as error:
        why = reason(error) if isinstance(error, OSError) else "no table of colours is in it"
        raise InputError(f"config.init_palette {file}: {why}") from error
    if found.shape != (colors, 3):
        raise InputError(
            f"config.init_palette {file} has the shape {found.shape}, config.model.palette is "
            f"{colors}: it must be ({colors}, 3)"
        )
    if not (np.isfinite(found).all() and np.abs(found).max() <= 1.001):
        raise InputError(f"config.init_palette {file}: colours must be from -1 to 1")
    if (different := len(np.unique(found, axis=0))) < colors:
        raise InputError(
            f"config.init_palette {file} holds colours twice: of {colors} only {different} differ"
        )
    return found


def find_palette(pixels: np.ndarray, colors: int, seed: int) -> np.ndarray:
    """Finds colours by k-means (scikit-learn's MiniBatchKMeans).

    Args:
      pixels: (n, 3), from -1 to 1.
      colors: number of colours K.
      seed: seed of the first centres; the same seed gives the same colours.

    Returns:
      (K, 3) in float32, from dark to light.

    Raises:
      InputError: there are fewer different colours than that.
    """
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    different = len(np.unique(pixels, axis=0))
    if different < colors:
        raise InputError(
            f"config.model.palette is {colors}, but the training images have {different} "
            f"different colours; set it to {different} or less"
        )
    means = MiniBatchKMeans(colors, batch_size=4096, n_init=1, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        centres = means.fit(pixels.astype(np.float32)).cluster_centers_
    order = np.argsort(centres.sum(axis=1), kind="stable")
    return np.clip(centres[order], -1, 1).astype(np.float32)


def palette_of(source: Source, preprocess: Preprocess, colors: int, seed: int) -> np.ndarray:
    """The palette of a data set, the same on every process; see `find_palette`.

    Args:
      source: training data.
      preprocess: their preprocessing.
      colors: number of colours K.
      seed: seed of the images and pixels that are used, and of k-means.

    Raises:
      InputError: an image cannot be read, or as `find_palette`.
    """

    def ask() -> dict[str, Any]:
        try:
            pixels = _some_pixels(source, preprocess, seed)
            return dict(palette=find_palette(pixels, colors, seed).tolist())
        except InputError as error:
            return dict(problem=str(error))
        except Exception as error:  # the other processes wait for an answer
            return dict(problem=first_line(error))

    found = from_first(ask)
    if "problem" in found:
        raise InputError(found["problem"])
    return np.array(found["palette"], np.float32)


def _some_pixels(source: Source, preprocess: Preprocess, seed: int) -> np.ndarray:
    """Pixels (n, 3) of images drawn at random, from -1 to 1."""
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(source.size, min(IMAGES, source.size), replace=False))
    batches = eval_batches(source, preprocess, batch_size=_BATCH, examples=chosen)
    images = np.concatenate([batch["image"][batch["mask"]] for batch in batches])
    pixels = np.broadcast_to(images, (*images.shape[:3], 3)).reshape(-1, 3)
    if len(pixels) > PIXELS:
        pixels = pixels[rng.choice(len(pixels), PIXELS, replace=False)]
    return pixels.astype(np.float32) / 127.5 - 1


def normalized(palette: np.ndarray, mean: Any, std: Any) -> np.ndarray:
    """Colours from -1 to 1 as a model takes pixels: (x - mean) / std of pixels from 0 to 1."""
    pixels = (palette.astype(np.float64) + 1) / 2
    return ((pixels - np.asarray(mean)) / np.asarray(std)).astype(np.float32)
