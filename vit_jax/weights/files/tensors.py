"""Reads tensors from one weight file; the file's own sizes bound the memory that it takes."""

import json
from pathlib import Path

import ml_dtypes  # noqa: F401  (teaches NumPy bfloat16, which safetensors files may hold)
import numpy as np

from vit_jax.data.sources.archives import read_archive
from vit_jax.errors import InputError
from vit_jax.text import first_line
from vit_jax.weights.files.pickles import read_pickle

PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".tar")  # timm writes last.pth.tar
SUFFIXES = (".npz", ".safetensors", *PICKLES)
_FLOATS = ("float16", "bfloat16", "float32", "float64")

Tensors = dict[str, np.ndarray]


def read_tensors(path: Path, part: str = "") -> tuple[Tensors, list[str]]:
    """The tensors of a weight file, or of the files that a shard index names, by name.

    Args:
      path: path of the file.
      part: name of the set of tensors to take from a training checkpoint that holds several.

    Returns:
      The tensors, and notes about what was taken and what was not.

    Raises:
      InputError: it is no weight file, is damaged, or claims more than it holds.
    """
    if path.name.endswith(".index.json"):
        shards = [read_tensors(path.parent / shard) for shard in _shards(path)]
        return {name: array for tensors, _ in shards for name, array in tensors.items()}, []
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path} is no weight file; known endings: {', '.join(SUFFIXES)}")
    if part and path.suffix not in PICKLES:
        raise InputError(f"{path} holds one set of tensors; leave out #{part}")
    try:
        if path.suffix in PICKLES:
            return read_pickle(path, part)
        read = _read_safetensors if path.suffix == ".safetensors" else read_archive
        return read(str(path)), []
    except (OSError, ValueError, KeyError, EOFError) as error:
        if isinstance(error, InputError):
            raise
        why = str(error) or "it ends too early"
        raise InputError(f"{path} is damaged or no {path.suffix} file: {why}") from error
    except Exception as error:  # zipfile, safetensors and pickle have their own, all unrelated
        raise InputError(f"{path} cannot be read: {first_line(error)}") from error


def _shards(index: Path) -> list[str]:
    """The files that a shard index names; all of them beside it.

    Raises:
      InputError: it is no index, or a name leads elsewhere.
    """
    try:
        names = set(json.loads(index.read_text())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{index} is no shard index with a weight_map of names") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or name.endswith(".json"):
            raise InputError(f"{index}: weight_map names {str(name)[:80]!r}, no file beside it")
    return sorted(names)


def _read_safetensors(path: str) -> Tensors:
    from safetensors.numpy import load_file

    return load_file(path)


def not_floating(tensors: Tensors) -> list[str]:
    """Names of tensors that hold no floating-point numbers, as in quantised files."""
    return [name for name, array in tensors.items() if array.dtype.name not in _FLOATS]
