"""Names that the files of several authors share, which are those of the original DeiT."""

import numpy as np

from vit_jax.weights.families import Recognised
from vit_jax.weights.formats.rows import dense, norm
from vit_jax.weights.layout import Table

# All but queries, keys, values and the first layer of a gated MLP.
TABLE: Table = {
    **dense("embedding", "patch_embed.proj", "dipq", "d"),
    "cls": ("cls_token", "11d"),
    "posemb/embedding": ("pos_embed", "1nd"),
    **norm("blocks/norm1", "blocks.{l}.norm1"),
    **dense("blocks/attention/out", "blocks.{l}.attn.proj", "d(hk)", "d"),
    **norm("blocks/norm2", "blocks.{l}.norm2"),
    **dense("blocks/mlp/fc1", "blocks.{l}.mlp.fc1", "md", "m"),
    **dense("blocks/mlp/fc2", "blocks.{l}.mlp.fc2", "dm", "d"),
    **norm("norm", "norm"),
    **dense("head", "head", "oz", "o"),
}
PACKED: Table = dense("blocks/attention/qkv", "blocks.{l}.attn.qkv", "(thk)d", "(thk)")


def split(
    whole: str, parts: list[str], tensors: dict[str, np.ndarray], original: dict[str, str]
) -> None:
    """Replaces a tensor by equal parts along its first axis; leaves it if it cannot be cut so."""
    if tensors[whole].ndim == 0 or tensors[whole].shape[0] % len(parts):
        return
    array, source = tensors.pop(whole), original.pop(whole)
    for part, values in zip(parts, np.split(array, len(parts))):
        tensors[part], original[part] = values, source


def unread(found: Recognised) -> tuple[str, ...]:
    """A note about each JSON file beside the weights of a family that has none."""
    return tuple(f"{name} is not read: {found.name} has no such file" for name in found.configs)
