"""Writes a model's weights as files that other programs read or run."""

import dataclasses
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util
from safetensors import SafetensorError

from vit_jax import options
from vit_jax.errors import InputError
from vit_jax.files import expand
from vit_jax.models.config import ModelConfig, Size
from vit_jax.registry import Registry
from vit_jax.text import reason
from vit_jax.weights.families import FAMILIES
from vit_jax.weights.record import Weights, layouts

Tensors = dict[str, np.ndarray]
ANY = object()  # any value of an option


@dataclasses.dataclass(frozen=True)
class Format:
    """A format that weights can be written in.

    Attributes:
      endings: endings of its paths; "" is a directory.
      write: (weights, path) -> lines that say what was written and what the other program
        does differently.
    """

    endings: tuple[str, ...]
    write: Callable[[Weights, Path], list[str]]


FORMATS: Registry[Format] = Registry(
    "format", "vit_jax.weights.formats", "vit_jax.weights.adapters.peft"
)
Writer = Callable[[Weights, Path], list[str]]


def weight_format(name: str, *endings: str) -> Callable[[Writer], Writer]:
    """Registers a function as `Format.write`."""

    def register(write: Writer) -> Writer:
        FORMATS.add(name, Format(endings, write), write)
        return write

    return register


def write(
    weights: Weights,
    path: str | Path,
    *,
    format: str = "",
    beside: Mapping[str, str] | None = None,
) -> list[str]:
    """Writes weights in the format of another program, or as an executable program.

    Args:
      weights: weights to write.
      path: x.npz (google), x.safetensors (timm) or x.stablehlo, each with a .json beside it
        with the rest of the description; x.onnx, which holds it; or a directory (huggingface,
        timm, open_clip, savedmodel).
      format: one of FORMATS; "": by the path, where a directory is for Hugging Face.
      beside: name -> text of further files of a directory, such as a model card.

    Returns:
      Lines that say what was written and what the other program does differently.

    Raises:
      InputError: the format cannot express a part of the model, the path exists, or the files
        cannot be written; nothing is left then.
    """
    path, found = check_target(path, format=format)
    # All files are complete before any has its name, whatever ends the process.
    folder = path.with_name(f".{path.name}.partial")
    partial = folder / path.name
    try:
        shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
        folder.mkdir()
        lines = found.write(weights, partial)
        for name, text in (beside or {}).items():
            (partial / name).write_text(text)
            lines.append(f"wrote {partial / name}")
        for file in sorted(folder.iterdir(), key=lambda file: file == partial):
            file.rename(path.with_name(file.name))
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be written: {reason(error)}") from error
    except InputError as error:
        raise InputError(str(error).replace(str(partial), str(path))) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return [line.replace(str(partial), str(path)) for line in lines]


def check_target(path: str | Path, *, format: str = "") -> tuple[Path, Format]:
    """The path and format for `write`; creates the folder that the path is in.

    Raises:
      InputError: an unknown format, another ending than it has, something is there, or
        nothing can be written there.
    """
    path = expand(path)
    if not format:
        by_ending = {end: name for name, found in FORMATS.items() for end in found.endings if end}
        if path.suffix and path.suffix not in by_ending:
            known = ", ".join(sorted(by_ending))
            raise InputError(
                f"{path}: no format ends in {path.suffix}; write one of {known}, or a "
                "directory without an ending"
            )
        format = by_ending.get(path.suffix, "huggingface")
    endings = FORMATS[format].endings
    if path.suffix not in endings:
        names = " or ".join(f"x{suffix}" if suffix else "a directory" for suffix in endings)
        raise InputError(f"{path}: format {format} is written to {names}")
    if path.exists():
        raise InputError(f"{path} exists; give another path, or remove it")
    if path.parent.exists() and not path.parent.is_dir():
        raise InputError(f"{path} cannot be written: {path.parent} is no folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"{path} cannot be written: {reason(error)}") from error
    return path, FORMATS[format]


def check_expressible(program: str, config: ModelConfig, has: Mapping[str, Any]) -> None:
    """Refuses a model with an option that another program cannot express.

    Args:
      program: name of the program, for the message.
      config: configuration of the model.
      has: option -> the only value that the program has, or ANY. An option that is not listed
        must have its default; options that only training uses are not checked.

    Raises:
      InputError: the program cannot express an option; the message names it.
    """
    expressible = options.defaults(type(config)) | dict(has)
    for name in options.names_with(type(config), *options.STORED_EFFECTS):
        value = getattr(config, name)
        # What has neither a word nor a default is refused whatever its value.
        if name not in expressible or expressible[name] not in (ANY, value):
            raise InputError(f"{program} has no model with {name}={value!r}; write .npz instead")


def named(weights: Weights, family: str, renames: Sequence[tuple[str, str]] = ()) -> Tensors:
    """The parameters under a family's names.

    Raises:
      InputError: the family has no place for some of them.
    """
    params = traverse_util.flatten_dict(weights.params, sep="/")
    tensors = {}
    known = FAMILIES[family]
    for path, layout in layouts(weights.config, known.table, family).items():
        for name, array in layout.to_theirs(params[path], known.words).items():
            for pattern, replacement in renames:
                name = re.sub(pattern, replacement, name)
            tensors[name] = array
    return tensors


def save(path: Path, tensors: Tensors, files: Mapping[Path, Any]) -> list[str]:
    """Writes tensors and JSON; returns a line for each file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        arrays: dict[str, Any] = dict(tensors)
        np.savez(path, **arrays)
    else:
        from safetensors.numpy import save_file

        save_file(tensors, path, metadata={"format": "pt"})
    return [f"wrote {path}: {len(tensors)} tensors", *save_json(files)]


def save_json(files: Mapping[Path, Any]) -> list[str]:
    """Writes JSON documents; returns a line for each file."""
    for file, document in files.items():
        file.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")
    return [f"wrote {file}" for file in files]


def side_length(size: Size) -> int | list[int]:
    """The side of a square as an int, otherwise [height, width]."""
    return size[0] if size[0] == size[1] else list(size)
