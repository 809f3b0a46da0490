"""Position embeddings for another resolution (section 3.2, "Fine-tuning and higher resolution").

Every method is separable: a matrix per axis whose rows hold the weights of the
old positions in each new one.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax.errors import InputError, unknown

# bilinear_align_corners is the paper's code (scipy.ndimage.zoom of order 1); antialias widens
# the filter when shrinking, as Pillow does and timm asks for.
METHODS = (
    "bilinear_align_corners",
    "bilinear",
    "bilinear_antialias",
    "bicubic",
    "bicubic_antialias",
)


def resample_posemb(
    embedding: np.ndarray,
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
    *,
    has_class_slot: bool | int,
    method: str = "bilinear_align_corners",
    antialias: bool = False,
) -> np.ndarray:
    """Resizes a position embedding to another grid of patches.

    Args:
      embedding: (1, N, D).
      old_grid: (rows, columns) the embedding was trained with.
      new_grid: (rows, columns) wanted.
      has_class_slot: number of leading positions that belong to no patch and stay as they
        are: True or 1 for the class token, 2 with a distillation token.
      method: one of METHODS.
      antialias: same as "_antialias" at the end of `method`.

    Returns:
      (1, N', D) in the dtype of `embedding`.

    Raises:
      InputError: N does not match `old_grid`, or the method is unknown.
    """
    if antialias and not method.endswith("_antialias"):
        method += "_antialias"
    slots = int(has_class_slot)
    rows, columns = old_grid
    if embedding.ndim != 3 or embedding.shape[:2] != (1, slots + rows * columns):
        raise InputError(
            f"a position embedding of shape {embedding.shape} is not one of a {rows}x{columns} "
            f"grid with {slots} more positions: expected (1, {slots + rows * columns}, width)"
        )
    matrices = [axis_weights(old, new, method) for old, new in zip(old_grid, new_grid)]
    if tuple(old_grid) == tuple(new_grid):
        return embedding
    kept, grid = embedding[:, :slots], embedding[0, slots:].reshape(rows, columns, -1)
    grid = np.einsum("yr,xc,rcd->yxd", *matrices, grid.astype(np.float64), optimize=True)
    grid = grid.reshape(1, new_grid[0] * new_grid[1], -1).astype(embedding.dtype)
    return np.concatenate([kept, grid], axis=1)


def resample_positions(
    params: Mapping[str, Any], old: Any, new: Any, method: str
) -> dict[str, np.ndarray]:
    """Resizes the position embeddings among parameters to another grid of patches.

    Args:
      params: path -> array of a model.
      old: ViTConfig of that model.
      new: ViTConfig of the other model.
      method: one of METHODS.

    Returns:
      Path -> array of the parameters that change; {} if the grids are equal.
    """
    found = {
        path: (np.asarray(params[path]), functools.partial(_RESIZE[name], old, new, method))
        for path, name in _sized(params, old, new)
    }
    # Blocks have a leading axis of layers.
    return {
        path: np.stack([*map(fit, array)]) if path.startswith("blocks/") else fit(array)
        for path, (array, fit) in found.items()
    }


def _sized(paths: Iterable[str], old: Any, new: Any) -> Iterator[tuple[str, str]]:
    """The paths of parameters that another grid changes, each with its name in `_RESIZE`."""
    for path in paths:
        *_, module, name = ("", *path.split("/"))
        sized = module == "posemb" or (module, name) == ("position_bias", "table")
        if sized and name in _RESIZE and old.grid != new.grid:
            yield path, name


def position_matrices(
    shapes: Mapping[str, Sequence[int]], old: Any, new: Any, method: str
) -> dict[str, tuple[int, np.ndarray]]:
    """`resample_positions` as matrices, for use inside a compiled step.

    Args:
      shapes: path -> shape of the parameters of a model.
      old: ViTConfig of that model.
      new: ViTConfig of the other model.
      method: one of METHODS.

    Returns:
      Path -> axis of the positions, and float32 (new positions, old positions), for the
      parameters that change.
    """
    found = {}
    for path, name in _sized(shapes, old, new):
        axis = (1 if path.startswith("blocks/") else 0) + (name == "embedding")
        unit = np.eye(shapes[path][axis])
        matrix = _RESIZE[name](old, new, method, unit[None] if name == "embedding" else unit)
        found[path] = axis, np.asarray(matrix, np.float32).reshape(-1, len(unit))
    return found


# Resizes each kind of parameter to another grid: (old config, new config, method, array).
_RESIZE = dict(
    embedding=lambda old, new, method, array: resample_posemb(
        array, old.grid, new.grid, has_class_slot=old.posemb_slots, method=method
    ),
    rows=lambda old, new, method, array: _resample_axis(array, old.grid[0], new.grid[0], method),
    columns=lambda old, new, method, array: _resample_axis(array, old.grid[1], new.grid[1], method),
    offsets=lambda old, new, method, array: resample_offsets(array, old.grid, new.grid, method),
    table=lambda old, new, method, array: resample_table(array, old.grid, new.grid, method),
)


def _resample_axis(array: np.ndarray, old: int, new: int, method: str) -> np.ndarray:
    """(old, D) -> (new, D)."""
    return (axis_weights(old, new, method) @ array.astype(np.float64)).astype(array.dtype)


def resample_table(
    table: np.ndarray, old_grid: tuple[int, int], new_grid: tuple[int, int], method: str
) -> np.ndarray:
    """Resizes the position biases of offsets in rows and columns.

    Args:
      table: ((2 R - 1)(2 C - 1) + more, H) for R x C patches; the rows behind those of offsets,
        which are the class token's, stay as they are.
      old_grid: (rows, columns) the biases were trained with.
      new_grid: (rows, columns) wanted.
      method: one of METHODS.

    Returns:
      (rows', H) in the dtype of `table`.
    """
    old, new = ([2 * size - 1 for size in grid] for grid in (old_grid, new_grid))
    plane = table[: old[0] * old[1]].reshape(*old, -1).astype(np.float64)
    weights = [axis_weights(*sizes, method) for sizes in zip(old, new)]
    plane = np.einsum("yr,xc,rch->yxh", *weights, plane, optimize=True)
    offsets = plane.reshape(new[0] * new[1], -1).astype(table.dtype)
    return np.concatenate([offsets, table[old[0] * old[1] :]])


def resample_offsets(
    offsets: np.ndarray, old_grid: tuple[int, int], new_grid: tuple[int, int], method: str
) -> np.ndarray:
    """Resizes the keys of relative attention, which are stored by 1-D offset of patches.

    An offset of r rows and c columns is the 1-D offset r * columns + c. The keys are laid out
    in two dimensions and resampled there; where two offsets of the new grid have the same 1-D
    offset, the result is their mean, weighted by the number of pairs of patches.

    Args:
      offsets: (2 P - 1, ...) for P = rows * columns patches.
      old_grid: (rows, columns) the keys were trained with.
      new_grid: (rows, columns) wanted.
      method: one of METHODS.

    Returns:
      (2 P' - 1, ...) in the dtype of `offsets`.
    """
    plane = offsets.astype(np.float64)[_in_line(old_grid)]
    weights = [
        axis_weights(2 * old - 1, 2 * new - 1, method) for old, new in zip(old_grid, new_grid)
    ]
    plane = np.einsum("yr,xc,rc...->yx...", *weights, plane, optimize=True)
    line = _in_line(new_grid)
    pairs = np.outer(*(size - np.abs(np.arange(1 - size, size)) for size in new_grid))
    total = np.zeros((line.max() + 1, *offsets.shape[1:]))
    np.add.at(total, line, plane * pairs.reshape(*pairs.shape, *[1] * (plane.ndim - 2)))
    count = np.bincount(line.ravel(), pairs.ravel()).reshape(-1, *[1] * (plane.ndim - 2))
    return (total / count).astype(offsets.dtype)


def _in_line(grid: tuple[int, int]) -> np.ndarray:
    """1-D offsets, counted from 0, of all 2-D offsets: (2 rows - 1, 2 columns - 1)."""
    rows, columns = (np.arange(1 - size, size) for size in grid)
    return rows[:, None] * grid[1] + columns + grid[0] * grid[1] - 1


def axis_weights(old: int, new: int, method: str) -> np.ndarray:
    """Interpolation along one axis as a matrix (new, old) whose rows sum to 1.

    Pixel centres, borders and kernels are those of torch.nn.functional.interpolate:
    without antialias positions outside repeat the border and the cubic kernel has
    a = -0.75; with it they are left out and a = -0.5.

    Raises:
      InputError: an unknown method.
    """
    if method not in METHODS:
        raise unknown("resampling method", method, METHODS)
    if method == "bilinear_align_corners":
        position = np.arange(new) * ((old - 1) / (new - 1) if new > 1 else 0.0)
        return _interpolate(position, old, _triangle, support=1)
    position = (np.arange(new) + 0.5) * old / new - 0.5
    if method.endswith("_antialias"):
        bilinear = method == "bilinear_antialias"
        kernel, support = (_triangle, 1) if bilinear else (_cubic(-0.5), 2)
        return _filter(position, old, kernel, support, stretch=max(old / new, 1.0))
    if method == "bilinear":
        return _interpolate(position, old, _triangle, support=1)
    return _interpolate(position, old, _cubic(-0.75), support=2)


def _interpolate(position: np.ndarray, old: int, kernel: Callable, support: int) -> np.ndarray:
    """Weights of the 2 * support nearest old positions, the border repeated outside."""
    weights = np.zeros((len(position), old))
    first = np.floor(position).astype(int) - support + 1
    for tap in range(2 * support):
        index = first + tap
        np.add.at(
            weights,
            (np.arange(len(position)), index.clip(0, old - 1)),
            kernel(position - index),
        )
    return weights


def _filter(
    position: np.ndarray, old: int, kernel: Callable, support: int, stretch: float
) -> np.ndarray:
    """Weights of a kernel, widened by `stretch`, around each new position; cut at the border."""
    distance = (position[:, None] - np.arange(old)) / stretch
    weights = np.where(np.abs(distance) < support, kernel(distance), 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1.0 - np.abs(x), 0.0)


def _cubic(a: float) -> Callable:
    """The cubic convolution kernel (Keys 1981) with slope `a` at distance 1."""

    def kernel(x: np.ndarray) -> np.ndarray:
        x = np.abs(x)
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = (((x - 5) * x + 8) * x - 4) * a
        return np.where(x < 1, near, np.where(x < 2, far, 0.0))

    return kernel
