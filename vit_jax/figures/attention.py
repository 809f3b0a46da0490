"""Analysis of a trained ViT: filters, position embeddings, attention (section 4.5).

Pure functions of arrays. Tokens are in the model's order: those before the patches
(`prefix`: class, distillation, registers), then the patches by row.
"""

import jax
import numpy as np

from vit_jax.models.attention.rollout import Grid, rollout, rollout_map

__all__ = [
    "Grid",
    "attention_distance",
    "filter_components",
    "patch_distances",
    "position_similarity",
    "rollout",
    "rollout_map",
]


def filter_components(kernel: np.ndarray, count: int = 28) -> tuple[np.ndarray, np.ndarray]:
    """Principal components of the patch embedding's filters (figure 7, left).

    Args:
      kernel: (ph, pw, channels, D), D filters.
      count: number of components; there are never more than pixels or filters.

    Returns:
      Components of length 1, (count, ph, pw, channels), the strongest first, and the share of
      the filters' variance that each explains. A component's largest entry is positive.
    """
    filters = np.asarray(kernel, np.float64).reshape(-1, kernel.shape[-1]).T
    _, values, components = np.linalg.svd(filters - filters.mean(0), full_matrices=False)
    components, shares = components[:count], values[:count] ** 2 / np.sum(values**2)
    largest = np.take_along_axis(components, np.abs(components).argmax(1)[:, None], 1)
    return (components * np.sign(largest)).reshape(-1, *kernel.shape[:-1]), shares


def position_similarity(embedding: np.ndarray, grid: Grid) -> np.ndarray:
    """Cosine similarity of each patch's position embedding with all others (figure 7, centre).

    Args:
      embedding: (rows * columns, D).
      grid: rows and columns.

    Returns:
      (rows, columns, rows, columns).
    """
    embedding = np.asarray(embedding, np.float64)
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    return (unit @ unit.T).reshape(*grid, *grid)


def patch_distances(grid: Grid, image_size: tuple[int, int]) -> np.ndarray:
    """Pixels between the centres of all pairs of patches: (P, P)."""
    rows, columns = np.mgrid[: grid[0], : grid[1]].reshape(2, -1)
    centres = np.stack([rows * image_size[0] / grid[0], columns * image_size[1] / grid[1]], axis=1)
    return np.linalg.norm(centres[:, None] - centres, axis=-1)


def attention_distance(weights: jax.Array, distances: np.ndarray, prefix: int) -> jax.Array:
    """Attention distance: mean distance of a patch to those it attends to (figure 7, right).

    Distances are weighted by attention among patches and averaged over the attending patches.
    Prefix tokens, which have no position in the image, are left out.

    Args:
      weights: (..., N, N) attention of each token to all; rows add up to 1.
      distances: (P, P) in pixels; see `patch_distances`.
      prefix: number of tokens before the patches, N - P.

    Returns:
      (...) in pixels.
    """
    patches = weights[..., prefix:, prefix:]
    share = patches / patches.sum(-1, keepdims=True)
    return (share * distances).sum(-1).mean(-1)
