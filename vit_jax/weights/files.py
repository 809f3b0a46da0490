"""Reads tensors, and the JSON files beside them, from a path, a URL or a hub id."""

import contextlib
import dataclasses
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (teaches NumPy bfloat16, which safetensors files may hold)
import numpy as np

from vit_jax.errors import InputError
from vit_jax.text import first_line

# Names of weight files in a directory, in order of preference.
_IN_DIRECTORY = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "*.safetensors",
    "*.npz",
    "*.pth",
)
# JSON files beside them.
_CONFIGS = ("config", "preprocessor_config", "processor_config")
SUFFIXES = (".npz", ".safetensors", ".pth", ".pt", ".bin")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclasses.dataclass(frozen=True)
class Files:
    """The `tensors` by name and the `configs` by file name (x.npz.json is "sidecar")."""

    path: str
    tensors: dict[str, np.ndarray]
    configs: dict[str, Any]


def read_files(path: str | Path) -> Files:
    """Reads a weight file, or a directory that holds one.

    Args:
      path: a local file or directory; a URL that fsspec understands (gs://, https://);
        or a Hugging Face hub id such as "google/vit-base-patch16-224".

    Raises:
      InputError: nothing is there, it cannot be reached, or it is not a weight file.
    """
    with _local(os.path.expanduser(str(path))) as local:
        weights = _find_weights(local)
        tensors = _read_tensors(weights)
        if not tensors:
            raise InputError(f"{path} holds no tensors")
        return Files(str(path), tensors, _read_configs(weights))


@contextlib.contextmanager
def _local(path: str) -> Iterator[Path]:
    """The local path of `path`; downloads it if it is remote."""
    if Path(path).exists():
        yield Path(path)
    elif "://" in path:
        with tempfile.TemporaryDirectory() as folder:
            yield _download(path, folder)
    elif _HUB_ID.fullmatch(path) and not Path(path).parent.exists():
        yield _from_hub(path)
    else:
        raise InputError(f"{path} does not exist; give a workdir, a checkpoint or a weight file")


def _download(url: str, folder: str) -> Path:
    """Fetches a file, with its sidecar, or a directory through fsspec."""
    try:
        import fsspec

        fs, remote = fsspec.core.url_to_fs(url)
        if fs.isdir(remote):
            names = [entry for entry in fs.ls(remote, detail=False) if _wanted(entry)]
        else:
            names = [remote, *([f"{remote}.json"] if fs.exists(f"{remote}.json") else [])]
        for name in names:
            fs.get(name, str(Path(folder, Path(name).name)))
    except Exception as error:
        raise InputError(f"{url} cannot be read: {first_line(error)}") from error
    return Path(folder) if fs.isdir(remote) else Path(folder, Path(remote).name)


def _wanted(name: str) -> bool:
    return name.endswith((".json", *SUFFIXES))


def _from_hub(repo: str) -> Path:
    """A hub repository's weights and JSON, from the network or, failing that, the local cache."""
    try:
        from huggingface_hub import HfApi, snapshot_download
    except ImportError as error:
        raise InputError(
            f"{repo} is no local path, and huggingface_hub, which reads hub ids, is not installed"
        ) from error
    try:
        names = [file.rfilename for file in HfApi().model_info(repo, timeout=10).siblings or []]
        patterns = ["*.json", "*.safetensors"]
        if not any(name.endswith(".safetensors") for name in names):
            patterns += ["pytorch_model*", "*.npz"]
        return Path(snapshot_download(repo, allow_patterns=patterns))
    except Exception as error:  # of the network, of the hub, of the account
        with contextlib.suppress(Exception):
            return Path(snapshot_download(repo, local_files_only=True))
        raise InputError(
            f"{repo} is no local path, and the Hugging Face hub does not give it: "
            f"{first_line(error)}"
        ) from error


def _find_weights(path: Path) -> Path:
    if path.is_file():
        return path
    for pattern in _IN_DIRECTORY:
        found = sorted(path.glob(pattern))
        if len(found) > 1:
            names = ", ".join(file.name for file in found)
            raise InputError(f"{path} holds several weight files, name one of them: {names}")
        if found:
            return found[0]
    raise InputError(f"{path} holds no weight file ({', '.join(SUFFIXES)})")


def _read_tensors(path: Path) -> dict[str, np.ndarray]:
    if path.name.endswith(".index.json"):
        return {
            k: v for shard in _shards(path) for k, v in _read_tensors(path.parent / shard).items()
        }
    readers = {".npz": _read_npz, ".safetensors": _read_safetensors}
    readers |= dict.fromkeys((".pth", ".pt", ".bin"), _read_torch)
    if path.suffix not in readers:
        raise InputError(f"{path} is no weight file; known endings: {', '.join(SUFFIXES)}")
    try:
        return readers[path.suffix](path)
    except (OSError, ValueError, KeyError, EOFError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is damaged or no {path.suffix} file: {error}") from error
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


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(path)


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"{path} is a PyTorch pickle: install torch to read it, or give the .safetensors file"
        ) from error
    state = torch.load(path, map_location="cpu", weights_only=True)
    for wrapper in ("model", "state_dict"):
        state = state.get(wrapper, state)
    return {
        name: (value.float() if value.dtype == torch.bfloat16 else value).numpy()
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }


def _read_configs(weights: Path) -> dict[str, Any]:
    """The JSON files of a model's directory, else the sidecar."""
    names = {"sidecar": f"{weights.name}.json"}
    if weights.name.startswith(("model.", "pytorch_model.")):
        names = {f"{name}.json": f"{name}.json" for name in _CONFIGS}
    configs = {}
    for key, name in names.items():
        if (file := weights.parent / name).exists():
            try:
                configs[key] = json.loads(file.read_text())
            except ValueError as error:
                raise InputError(f"{file} is not JSON: {error}") from error
    return configs
