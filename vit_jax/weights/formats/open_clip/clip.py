"""open_clip's own image tower (2103.00020): its names, its preprocessing, its writer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vit_jax.errors import InputError
from vit_jax.models.vit_config import ViTConfig
from vit_jax.weights.families import FAMILIES, Family, Recognised
from vit_jax.weights.files.json_fields import Fields
from vit_jax.weights.formats.open_clip.config import (
    NAME,
    preprocessing,
    recipe,
    tower_hints,
)
from vit_jax.weights.formats.open_clip.names import OTHER, tower
from vit_jax.weights.formats.rows import SIZES
from vit_jax.weights.preprocessing import Recipe, other_preprocessing
from vit_jax.weights.record import Weights
from vit_jax.weights.write import ANY, check_expressible, named, save, side_length, weight_format


def _hints(found: Recognised) -> Mapping[str, Any]:
    """Fields of the configuration, from open_clip_config.json or from what is usual.

    Raises:
      InputError: as `tower_hints`; or the pooling is open.
    """
    if NAME in found.configs:
        return tower_hints(found)
    if not any(name.endswith("ln_pre.weight") for name in found.tensors):  # CLIPA
        raise InputError(
            f"{found.path} does not tell how it pools; put its {NAME} beside it, and name the file "
            "open_clip_model.safetensors or open_clip_pytorch_model.bin"
        )
    unread = tuple(f"{name} is not read: open_clip's is {NAME}" for name in found.configs)
    return dict(head="token", norm_eps=1e-5, notes=unread)


FAMILIES.add(
    "open_clip",
    Family(
        ("visual.conv1.weight", "visual.ln_post.weight", "visual.class_embedding"),
        tower("visual."),
        _hints,
        recipe,
        other=OTHER,
    ),
)
FAMILIES.add(
    "open_clip image tower",
    Family(
        ("conv1.weight", "ln_post.weight", "class_embedding"),
        tower(""),
        _hints,
        recipe,
        ("clip.visual.", "model.visual."),
    ),
)

# Options that open_clip_config.json can say; all others must have their usual value.
_TOLD = SIZES | dict.fromkeys(
    (
        *("width", "depth", "mlp_dim", "num_heads", "patch_size", "gelu", "norm_eps", "norm_pre"),
        *("projection", "layer_scale", "class_token", "pool_then_norm"),
    ),
    ANY,
)


@weight_format("open_clip", "")
def write(weights: Weights, path: Path) -> list[str]:
    """Writes the image tower and open_clip_config.json."""
    config = weights.config
    document = _document(weights)
    theirs = preprocessing(Fields(document["preprocess_cfg"], NAME), config.image_size).spec(
        config.image_size
    )
    steps = other_preprocessing("open_clip", weights.pp, theirs)
    files = {path / NAME: document, path / "vit_jax.json": dict(report=weights.report)}
    return [
        *save(path / "open_clip_model.safetensors", named(weights, "open_clip"), files),
        "the image tower alone: open_clip reads it by load_checkpoint(model, file, strict=False)",
        *(f"left out, open_clip has none: {name}" for name in weights.aside),
        *steps,
    ]


def _document(weights: Weights) -> dict[str, Any]:
    """The content of open_clip_config.json.

    Raises:
      InputError: open_clip has no such model.
    """
    config = weights.config
    if not isinstance(config, ViTConfig):
        raise InputError(f"open_clip has no {type(config).__name__}; write .npz instead")
    head = "gap" if config.head == "gap" else "token"
    has = _TOLD | dict(head=head, patch_bias=False)
    check_expressible("open_clip", config, has)
    for name, wanted in (("num_classes", 0), ("projection", config.projection or 1)):
        if getattr(config, name) != wanted:
            raise InputError(
                f"open_clip has no model with {name}={getattr(config, name)}; it has a projection "
                "and no classes: write .npz instead"
            )
    if not config.has_class_token:
        raise InputError("open_clip has no model without a class token; write .npz instead")
    prepared = Recipe.parse(weights.pp)
    ratio = config.mlp_dim / config.width
    vision: dict[str, Any] = dict(
        image_size=side_length(config.image_size),
        patch_size=side_length(config.patch_size),
        layers=config.depth,
        width=config.width,
        head_width=config.width // config.num_heads,
        # A little more where rounding down would give the number below.
        mlp_ratio=ratio if int(config.width * ratio) == config.mlp_dim else ratio * (1 + 1e-9),
    )
    if not config.norm_pre:
        vision["no_ln_pre"] = True
    if config.head == "gap":
        vision |= dict(pool_type="avg", final_ln_after_pool=config.pool_then_norm)
    if config.layer_scale is not None:
        vision["ls_init_value"] = config.layer_scale
    if config.norm_eps != 1e-5:
        vision["norm_kwargs"] = dict(eps=config.norm_eps)
    if config.gelu == "tanh":
        vision["act_kwargs"] = dict(approximate="tanh")
    return dict(
        model_cfg=dict(
            embed_dim=config.projection,
            quick_gelu=config.gelu == "quick",
            vision_cfg=vision,
            text_cfg={},
        ),
        preprocess_cfg=dict(
            size=side_length(config.image_size),
            mode="RGB",
            mean=list(prepared.mean),
            std=list(prepared.std),
            interpolation=prepared.method,
            resize_mode="squash" if prepared.squash else "shortest",
        ),
    )
