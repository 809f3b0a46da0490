"""Names -> modules: the paper's variants (table 1), any patch size."""

import dataclasses
import fnmatch
import re
from typing import Any

from flax import nnx

from vit_jax.errors import InputError, unknown
from vit_jax.models.vit import ViT, ViTConfig

# Width, depth, MLP width, heads: table 1; Ti and S are from 2106.10270, g and G from 2106.04560.
VARIANTS = {
    "Ti": dict(width=192, depth=12, mlp_dim=768, num_heads=3),
    "S": dict(width=384, depth=12, mlp_dim=1536, num_heads=6),
    "B": dict(width=768, depth=12, mlp_dim=3072, num_heads=12),
    "L": dict(width=1024, depth=24, mlp_dim=4096, num_heads=16),
    "H": dict(width=1280, depth=32, mlp_dim=5120, num_heads=16),
    "g": dict(width=1408, depth=40, mlp_dim=6144, num_heads=16),
    "G": dict(width=1664, depth=48, mlp_dim=8192, num_heads=16),
}
# What `list_models` shows; any other patch size is understood too.
PATCHES = {
    "Ti": (16,),
    "S": (16, 32),
    "B": (8, 16, 32),
    "L": (16, 32),
    "H": (14,),
    "g": (14,),
    "G": (14,),
}
_NAME = re.compile(r"vit[-_]?(ti|s|b|l|h|g|G)[-_/]?(\d+)", re.IGNORECASE)


def list_models(pattern: str = "*") -> list[str]:
    """Names of the paper's models that match a shell pattern such as "ViT-*/16"."""
    names = [f"ViT-{size}/{patch}" for size, patches in PATCHES.items() for patch in patches]
    return fnmatch.filter(names, pattern)


def canonical_name(name: str) -> str:
    """The paper's spelling: `vit_b16` -> `ViT-B/16`. Only `g` and `G` differ by case alone.

    Raises:
      InputError: no such model, with the nearest name.
    """
    match = _NAME.fullmatch(name)
    if not match:
        raise unknown("model", name, list_models())
    size, patch = match.groups()
    by_lower = {variant.lower(): variant for variant in VARIANTS if variant != "G"}
    size = "G" if size == "G" else by_lower[size.lower()]
    if int(patch) < 1:
        raise InputError(f"model {name!r}: the patch size must be at least 1")
    return f"ViT-{size}/{int(patch)}"


def model_config(name: str, **options: Any) -> ViTConfig:
    """The full configuration of a named model; options that are None are ignored.

    Args:
      name: see `list_models`.
      **options: fields of `ViTConfig`; image_size and patch_size may be an int
        or (height, width), pre_logits may be -1: the model's width.

    Raises:
      InputError: an unknown model or option, or options that do not fit each other.
    """
    name = canonical_name(name)
    size, patch = name.removeprefix("ViT-").split("/")
    fields = dict(VARIANTS[size], patch_size=int(patch))
    known = [field.name for field in dataclasses.fields(ViTConfig)]
    for option, value in options.items():
        if option not in known:
            raise unknown("model option", option, known)
        if value is not None:
            fields[option] = value
    for option in ("image_size", "patch_size"):
        if option in fields:
            fields[option] = _pair(option, fields[option])
    if fields.get("pre_logits") == -1:
        fields["pre_logits"] = fields["width"]
    return ViTConfig(**fields)


def _pair(option: str, value: Any) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or not all(isinstance(size, int) and size > 0 for size in pair):
        raise InputError(f"model.{option} is {value!r}; give pixels or (height, width)")
    return pair


def create_model(name: str, *, rngs: nnx.Rngs | None = None, **options: Any) -> nnx.Module:
    """A freshly initialised model by name.

    Args:
      name: such as "ViT-B/16"; `vit_b16` and lower case are understood.
      rngs: random streams of the initialisation; None: seed 0.
      **options: see `model_config`; commonly num_classes, image_size, head, dtype.

    Returns:
      An nnx.Module: `model(images)` gives logits.

    Raises:
      InputError: an unknown model or option.
    """
    return ViT(model_config(name, **options), rngs=rngs or nnx.Rngs(0))
