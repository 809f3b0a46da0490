"""Reads tensors, and the JSON files beside them, from a path, a URL or a hub id."""

import contextlib
import dataclasses
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.errors import InputError, unknown
from vit_jax.schema import parse
from vit_jax.text import first_line
from vit_jax.weights.description import Description, find_description
from vit_jax.weights.files.tensors import PICKLES, SUFFIXES, read_tensors

# Names of weight files in a directory, in order of preference.
_IN_DIRECTORY = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "*.safetensors",
    "*.npz",
    "*.pth",
)
# JSON files beside them.
_CONFIGS = ("config", "preprocessor_config", "processor_config")
# Small trained models that come with the package: vit_jax/fashion-mnist.
IMAGES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff")
SHIPPED = Path(__file__).parents[1] / "shipped"
_SHIPPED = re.compile(r"vit_jax/([\w-]+)")
# A repository of the hub, or one file of it: google/vit-base-patch16-224, owner/name:file.npz.
_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?::(\w[^:]*))?")


@dataclasses.dataclass(frozen=True)
class Files:
    """A weight file and the JSON beside it.

    Attributes:
      path: path as the user gave it.
      tensors: tensors by name.
      configs: contents of the JSON files by name; x.npz.json is "sidecar".
      own: the description that `write` made, and its place; None if there is none.
      notes: what was taken of several sets of tensors.
    """

    path: str
    tensors: dict[str, np.ndarray]
    configs: dict[str, Any]
    own: tuple[Description, str] | None
    notes: list[str]


def read_files(path: str | Path, *, use_ema: bool = False) -> Files:
    """Reads a weight file, or a directory that holds one.

    Args:
      path: a local file or directory; a URL that fsspec understands (gs://, https://);
        a Hugging Face hub id such as "google/vit-base-patch16-224", of which
        "owner/name:folder/file.safetensors" names one file; or "vit_jax/fashion-mnist", a small
        model that comes with the package. A training checkpoint may hold
        several sets of tensors: x.pth#teacher names one.
      use_ema: whether to take averaged parameters of a training checkpoint.

    Raises:
      InputError: nothing is there, it cannot be reached, or it is not a weight file.
    """
    check_no_image(path)
    whole, part = _part(os.path.expanduser(str(path)))
    if use_ema and part:
        raise InputError(f"{path} names a set of tensors; leave out #{part} or use_ema")
    with _local(whole) as local:
        weights = _find_weights(local)
        if use_ema and weights.suffix not in PICKLES:
            raise InputError(f"{path} is no run of vit_jax: it keeps no averaged parameters")
        configs = _read_configs(weights)
        own = find_description(configs, weights)
        tensors, notes = read_tensors(weights, "ema" if use_ema else part)
        if not tensors:
            raise InputError(f"{path} holds no tensors")
        return Files(str(path), tensors, configs, own, notes)


def _part(path: str) -> tuple[str, str]:
    """The path of a file and the set of tensors in it: "x.pth#teacher"."""
    whole, mark, part = path.rpartition("#")
    named = mark and whole.endswith(PICKLES) and not Path(path).exists()
    return (whole, part) if named else (path, "")


@contextlib.contextmanager
def _local(path: str) -> Iterator[Path]:
    """The local path of `path`; downloads it if it is remote."""
    if Path(path).exists():
        yield Path(path)
    elif "://" in path:
        with tempfile.TemporaryDirectory() as folder:
            yield _download(path, folder)
    elif shipped := _SHIPPED.fullmatch(path):
        yield _from_package(shipped[1])
    elif (hub := _HUB_ID.fullmatch(path)) and not Path(path).parent.exists():
        yield _from_hub(hub[1], hub[2])
    else:
        raise InputError(f"{path} does not exist; give a workdir, a checkpoint or a weight file")


def check_no_image(path: str | Path) -> None:
    """Refuses an image where weights are expected.

    Raises:
      InputError: the name is that of an image file.
    """
    if str(path).lower().endswith(IMAGES):
        raise InputError(
            f"{path} is an image, not a model; give the weights first, then the images"
        )


def is_shipped(path: str) -> bool:
    """Whether a path names a model that comes with the package, which the hub does not have."""
    return _SHIPPED.fullmatch(path) is not None


def _from_package(name: str) -> Path:
    files = {file.stem: file for file in SHIPPED.glob("*.safetensors")}
    if name not in files:
        raise unknown(
            "model of the package", f"vit_jax/{name}", [f"vit_jax/{one}" for one in files]
        )
    return files[name]


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


def _from_hub(repo: str, file: str | None) -> Path:
    """A hub repository's weights and JSON, from the network or, failing that, the local cache.

    Args:
      repo: id of the repository.
      file: path in it of the only weight file that is wanted.
    """
    try:
        from huggingface_hub import HfApi, snapshot_download
    except ImportError as error:
        raise InputError(
            f"{repo} is no local path, and huggingface_hub, which reads hub ids, is not installed"
        ) from error
    try:
        names = [file.rfilename for file in HfApi().model_info(repo, timeout=10).siblings or []]
        patterns = ["*.json", file or "*.safetensors"]
        if not file and not any(name.endswith(".safetensors") for name in names):
            patterns += ["pytorch_model*", "open_clip_pytorch_model*", "*.npz"]
        folder = Path(snapshot_download(repo, allow_patterns=patterns))
    except Exception as error:  # of the network, of the hub, of the account
        folder = _cached(repo, error)
    if file and not (folder / file).is_file():
        raise InputError(f"{repo} has no file {file} on the Hugging Face hub or in its local cache")
    return folder / file if file else folder


def _cached(repo: str, error: Exception) -> Path:
    """The copy of a hub repository in the hub's local cache, for want of the hub."""
    from huggingface_hub import snapshot_download

    with contextlib.suppress(Exception):
        return Path(snapshot_download(repo, local_files_only=True))
    raise InputError(
        f"{repo} is no local path, and the Hugging Face hub does not give it: "
        f"{first_line(error).rstrip('.')}; run `hf download {repo}` where there is a network, "
        "after `hf auth login` if its files are for members only, and copy its cache (HF_HOME) here"
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


def _read_configs(weights: Path) -> dict[str, Any]:
    """The JSON files of a model's directory, else the sidecar."""
    names = {"sidecar": f"{weights.name}.json"}
    if weights.name.startswith(("model.", "pytorch_model.")):
        names = {f"{name}.json": f"{name}.json" for name in _CONFIGS}
    if weights.name.startswith("open_clip_"):
        names = {name: name for name in ("open_clip_config.json",)}
    configs = {}
    for key, name in names.items():
        if (file := weights.parent / name).exists():
            configs[key] = _read_json(file)
    return configs


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = parse(file.read_bytes())
    except ValueError as error:
        raise InputError(f"{file} is not JSON: {error}; restore or remove it") from error
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} is no JSON object; restore or remove it")
    return content
