"""Reads timm's config.json: the network's options and the preprocessing."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from vit_jax.errors import InputError, nearest
from vit_jax.weights.families import Recognised, no_family, without_place
from vit_jax.weights.files.json_fields import Fields
from vit_jax.weights.formats.rows import TORCH_RESNET
from vit_jax.weights.formats.timm.architectures import architecture, architectures
from vit_jax.weights.formats.timm.arguments import READERS, has_fc_norm
from vit_jax.weights.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Recipe

# Fields that do not change what a model computes from given tensors.
_ABOUT = ("num_features", "label_names", "label_descriptions", "tags", "license", "vit_jax")
_PRETRAINED = (
    *("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "architecture"),
    *("tag", "custom_load", "test_input_size", "test_crop_pct", "min_input_size", "num_classes"),
    *("pool_size", "test_pool_size", "first_conv", "classifier", "license", "description"),
    *("origin_url", "paper_name", "paper_ids", "notes", "label_names", "label_descriptions"),
    *("num_features",),
)
# Tensors of networks that differ in more than names and shapes: epsilons, GELU, rotary embeddings.
_OPEN = re.compile(
    r"norm_pre|patch_embed\.norm|attn\.[qkv]_(proj|bias)|in_norm|fc1_[gx]|(attn|mlp)\.norm\."
    r"|rel_pos|relative_position|^rope|storage_tokens"
)
_METHODS = ("bicubic", "bilinear", "nearest")


@dataclasses.dataclass(frozen=True)
class Described:
    """What config.json says.

    Attributes:
      kind: kind of the architecture.
      arguments: arguments of timm's class, those of the architecture included.
      sized: whether the file gives the width itself.
      pool: pooling, where the file gives it beside the arguments.
      recipe: preprocessing of images.
    """

    kind: str
    arguments: Fields
    sized: bool
    pool: str | None
    recipe: Recipe


def hints(found: Recognised) -> Mapping[str, Any]:
    """Fields of the model's configuration, from config.json or from what is usual.

    Raises:
      InputError: config.json asks for something that the models here do not have.
    """
    if "config.json" in found.configs:
        described = _describe(found)
        result = READERS[described.kind](found, described.arguments, described.pool)
        if not described.sized and result.get("width") != _width(found):
            # The sizes are not those of the architecture, and so may be its heads.
            result |= dict.fromkeys(("width", "depth", "mlp_dim", "patch_size", "num_heads"))
        return result
    pooled = has_fc_norm(found)
    if found.family.signature == "patch_embed.proj.weight":
        _check_plain(found, pooled)
    return dict(
        norm_eps=1e-6,
        # SigLIP's towers pool by attention: some compute GELU by tanh, some by erf.
        gelu=None if "attn_pool.latent" in found.tensors else "erf",
        head="gap" if pooled else None,
        pool_then_norm=pooled,
        **TORCH_RESNET,
    )


def _check_plain(found: Recognised, pooled: bool) -> None:
    """Refuses a file without config.json whose tensors do not tell all about the network.

    Args:
      found: the file.
      pooled: whether its last norm is the one after pooling.
    """
    names = found.original.values()
    reasons = [name for name in names if _OPEN.search(name)]
    reasons += [f"no {name}" for name in ("pos_embed", "norm.weight") if name not in found.tensors]
    # DeiT-III's own files, .pth, and timm's vit_*_rope_ape have the same names.
    own = found.path.endswith((".pth", ".pt")) and not pooled
    reasons += [name for name in names if name.endswith(".gamma_1") and not own]
    if reasons and without_place(found):
        raise no_family(found.path, list(names))
    if reasons:
        raise InputError(
            f"{found.path}: its tensors ({reasons[0]}) do not tell how positions, norms or GELU "
            "are computed; put timm's config.json beside it"
        )


def recipe(found: Recognised) -> Recipe:
    """The preprocessing in config.json; without that file timm's default."""
    if "config.json" in found.configs:
        return _describe(found).recipe
    return Recipe(224 / 256, False, "bicubic", True, IMAGENET_MEAN, IMAGENET_STD, True, True)


def prepared_by(pretrained_cfg: Mapping[str, Any]) -> Recipe:
    """The preprocessing that a `pretrained_cfg` says."""
    config = Fields(pretrained_cfg, "pretrained_cfg")
    config.ignore(("fixed_input_size",))
    return _preprocessing(config)[1]


def _describe(found: Recognised) -> Described:
    """Reads config.json as timm does.

    Raises:
      InputError: a field that is not understood, or an unknown architecture.
    """
    whole = dict(Fields(found.config_json, f"{found.path}: config.json").rest())
    if "pretrained_cfg" not in whole:  # the layout of earlier versions: one object for all
        own = {"architecture", "model_args", *_ABOUT}
        inner = {key: value for key, value in whole.items() if key not in own}
        whole = {key: value for key, value in whole.items() if key in own}
        whole["pretrained_cfg"] = inner
    file = Fields(whole, f"{found.path}: config.json")
    name = file.take("architecture", str)
    file.take("num_classes", int)
    pool = file.take("global_pool", str)
    stated = file.section("model_args")
    pretrained = file.section("pretrained_cfg")
    file.ignore(_ABOUT)
    file.close()
    kind, usual = _architecture(file, name)
    said_pool = pretrained.take("global_pool", str)
    fixed = pretrained.take("fixed_input_size", bool, False)
    size, prepared = _preprocessing(pretrained)
    overlay: dict[str, Any] = dict(img_size=list(size)) if fixed else {}
    overlay |= dict(global_pool=said_pool) if said_pool else {}
    arguments = Fields({**usual, **overlay, **stated.rest()}, f"{stated.where} of {name}")
    return Described(kind, arguments, "embed_dim" in stated.rest(), pool, prepared)


def _width(found: Recognised) -> int | None:
    embedding = found.tensors.get("patch_embed.proj.weight")
    return None if embedding is None else embedding.shape[0]


def _architecture(file: Fields, name: str | None) -> tuple[str, dict[str, Any]]:
    found = architecture(name) if name else None
    if found is None:
        hint = nearest((name or "")[:80], architectures(), 0.8)
        raise InputError(
            f"{file.where}: architecture {str(name)[:80]!r} is not in the table of timm's "
            f"architectures{hint}; of a plain ViT write vit_base_patch16_224 and its model_args"
        )
    return found


def _preprocessing(config: Fields) -> tuple[tuple[int, int], Recipe]:
    """Image size and preprocessing of `pretrained_cfg`."""
    config.ignore(_PRETRAINED)
    config.only("label_offset", 0)
    stated = config.take("input_size", list)
    sides = stated or [3, 224, 224]
    if len(sides) != 3 or sides[0] != 3:
        raise config.error("input_size", sides, "it must be [3, height, width]")
    size = Fields(dict(input_size=sides[1:]), config.where).size("input_size") or (224, 224)
    share = config.take("crop_pct", float) or 224 / 256
    if share < 0.01:
        raise config.error("crop_pct", share, "it must be from 0.01 on")
    notes = []
    mode = config.only("crop_mode", "center", "squash", "border")
    if mode == "border":
        notes.append("images are cropped here, not padded to a square (crop_mode border)")
    method = config.take("interpolation", str, "bicubic")
    if method not in _METHODS:
        notes.append(f"resampling is bicubic here, not {method[:20]} (interpolation)")
    prepared = Recipe(
        share=share,
        squash=mode == "squash",
        method=method if method in _METHODS else "bicubic",
        floor=True,
        truncate=True,
        size=size if stated else None,
        notes=tuple(notes),
        mean=config.numbers("mean", 3, IMAGENET_MEAN),
        std=config.numbers("std", 3, IMAGENET_STD),
    )
    config.close()
    return size, prepared
