"""Reads PyTorch's files, also those that training programs write. Nothing stored in them is run."""

import contextlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.errors import InputError
from vit_jax.text import first_line, some

# Sets of tensors in a training checkpoint, the first one is taken: parameters as trained
# (DINO evaluates its teacher), then averaged ones.
_TRAINED = ("model", "state_dict", "model_state_dict", "model_state", "teacher", "module")
AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "teacher")
_NOT_A_MODEL = ("optimizer", "optimizer_states", "optim", "scaler", "amp", "loss_scaler")


class _Skipped:
    """Stands for an object of another program in a pickle, whose class is not imported."""

    def __new__(cls, *args: Any, **options: Any) -> "_Skipped":
        return super().__new__(cls)

    def __init__(self, *args: Any, **options: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_pickle(path: Path, part: str = "") -> tuple[dict[str, np.ndarray], list[str]]:
    """The tensors of a .pth, .pt or .bin file, and notes about what was taken.

    Args:
      path: path of the file.
      part: name of the set of tensors to take; "ema": the averaged one; "": the usual one.

    Raises:
      InputError: torch is not installed, the file cannot be read without running code that is
        stored in it, it lacks the part, or it has several and none is the usual one.
    """
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"{path} is a PyTorch pickle: install torch to read it, or give the .safetensors file"
        ) from error
    try:
        with _other_classes_skipped(path), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's about TorchScript, before it refuses that
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError):
        raise
    except Exception as error:  # torch's text goes on for many lines
        raise InputError(
            f"{path} cannot be read without running what is stored in it, or is damaged "
            f"({first_line(error, 100)}); save its state_dict alone by torch.save"
        ) from error
    found, notes = _choose(path, content, part)
    return {name: _to_numpy(path, name, tensor) for name, tensor in found.items()}, notes


def _other_classes_skipped(path: Path) -> contextlib.AbstractContextManager:
    """A context in which torch.load puts `_Skipped` in place of classes that it refuses."""
    from torch import serialization

    try:
        names = serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception:  # a file of before 2020, a damaged one, or an old torch: as torch.load says
        return contextlib.nullcontext()
    return serialization.safe_globals([(_Skipped, name) for name in names])


def _choose(path: Path, content: Any, part: str) -> tuple[dict[str, Any], list[str]]:
    """The set of tensors that is asked for, or the usual one; and a note if there are several."""
    sets = {key: tensors for key, tensors in _sets(content) if tensors}
    if part == "ema":
        part = next((name for name in AVERAGED if name in sets), "")
        if not part:
            raise InputError(f"{path} holds no averaged parameters ({_contents(content)})")
    if part and part not in sets:
        known = some([name for name in sets if name], 6) or "one set, without a name"
        raise InputError(f"{path} holds no tensors named {part!r}; it has {known}")
    if not sets:
        raise InputError(f"{path} holds no tensors ({_contents(content)})")
    usual = ("", *_TRAINED, *AVERAGED)
    taken = part or next((name for name in usual if name in sets), "")
    if taken not in sets:
        if len(sets) > 1:
            raise InputError(
                f"{path} holds several sets of tensors: {some([*sets], 6)}; name one of them, as "
                f"{path.name}#{next(iter(sets))}"
            )
        (taken,) = sets
    others = [f"{path.name}#{name}" for name in sets if name not in ("", taken)]
    if not others:
        return sets[taken], []
    return sets[taken], [f"took {taken or 'the tensors outside'}; also there: {some(others, 6)}"]


def _sets(content: Any) -> list[tuple[str, dict[str, Any]]]:
    """(name, tensors) of each set of tensors; "" are those at the top."""
    if not isinstance(content, Mapping):
        return []
    inner = [
        (key, value)
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, Mapping) and key not in _NOT_A_MODEL
    ]
    return [("", _tensors(content)), *((key, _tensors(value)) for key, value in inner)]


def _tensors(content: Mapping[Any, Any]) -> dict[str, Any]:
    import torch

    return {
        key: value
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, torch.Tensor)
    }


def _contents(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"it is one {type(content).__name__}"
    return f"it has {some([str(key)[:40] for key in content], 6)}" if content else "it is empty"


def _to_numpy(path: Path, name: str, tensor: Any) -> np.ndarray:
    import torch

    if tensor.layout != torch.strided or tensor.is_quantized:
        raise InputError(f"{path}: {name} is a sparse or quantised tensor; store it as a usual one")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise InputError(f"{path} is damaged: {name} claims more numbers than it holds")
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
