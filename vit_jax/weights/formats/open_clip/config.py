"""Reads open_clip_config.json: the image tower's options and the preprocessing."""

from collections.abc import Mapping
from typing import Any

from vit_jax.weights.families import Recognised
from vit_jax.weights.files.json_fields import Fields
from vit_jax.weights.formats.open_clip.names import CLIP_MEAN, CLIP_STD
from vit_jax.weights.preprocessing import Recipe

NAME = "open_clip_config.json"
# The shorter side becomes the model's, as torchvision does.
USUAL = Recipe(1.0, False, "bicubic", True, CLIP_MEAN, CLIP_STD, floor=True, truncate=True)
# Fields about the text tower, and those that do not change an image's features.
_MODEL = (
    *("text_cfg", "multimodal_cfg", "custom_text", "init_logit_scale", "init_logit_bias"),
    *("nonscalar_logit_scale", "output_dict", "cast_dtype"),
)
_VISION = (
    *("patch_dropout", "output_tokens", "image_seq_len", "attn_pooler_queries"),
    *("attn_pooler_heads", "timm_drop", "timm_drop_path", "timm_model_pretrained"),
)
_PLAIN = ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn")
METHODS = ("bicubic", "bilinear", "nearest")


def opened(found: Recognised) -> tuple[Fields, Fields, Fields]:
    """The parts of open_clip_config.json: model, image tower, preprocessing."""
    whole = Fields(found.configs[NAME], f"{found.path}: {NAME}")
    model, prepared = whole.section("model_cfg"), whole.section("preprocess_cfg")
    whole.ignore(("vit_jax",))
    whole.close()
    tower = model.section("vision_cfg")
    model.ignore(_MODEL)
    tower.ignore(_VISION)
    return model, tower, prepared


def tower_hints(found: Recognised) -> Mapping[str, Any]:
    """Fields of the configuration of open_clip's own image tower.

    Raises:
      InputError: a field that is not understood, or that asks for another network.
    """
    model, tower, _ = opened(found)
    quick = model.take("quick_gelu", bool, False)
    features = model.take("embed_dim", int)
    model.close()
    layers = tower.rest().get("layers")
    if isinstance(layers, list):
        raise tower.error("layers", layers, "it is CLIP's ResNet, which is not supported")
    tower.only("timm_model_name", None, "")
    tower.only("attentional_pool", False)
    tower.only("block_type", None, "default")
    for name in (*_PLAIN, "scale_fc"):
        tower.only(name, False)
    tower.only("in_chans", 3)
    tower.only("pos_embed_type", "learnable", "sin_cos_2d")  # both are in the file
    width, head_width = tower.take("width", int, 768), tower.take("head_width", int, 64)
    ratio = tower.take("mlp_ratio", float, 4.0)
    pool = tower.only("pool_type", "tok", "avg")
    after = tower.take("final_ln_after_pool", bool, False)
    norms = tower.section("norm_kwargs")
    epsilon = norms.take("eps", float, 1e-5)
    norms.close()
    gelu = _gelu(tower, quick)
    prefix = "visual." if "visual.conv1.weight" in found.tensors else ""
    without_norm = tower.take("no_ln_pre", bool, False)
    if without_norm != (f"{prefix}ln_pre.weight" not in found.tensors):
        raise tower.error("no_ln_pre", without_norm, "the tensors say the opposite")
    scale = tower.take("ls_init_value", float)
    if (scale is None) == (f"{prefix}transformer.resblocks.0.ls_1.gamma" in found.tensors):
        raise tower.error("ls_init_value", scale, "the tensors say the opposite")
    projection = found.tensors.get(f"{prefix}proj")
    if features and projection is not None and projection.shape[-1] != features:
        raise model.error("embed_dim", features, f"the tensors have {projection.shape[-1]}")
    patch, size = tower.size("patch_size", (16, 16)), tower.size("image_size", (224, 224))
    result = dict(
        width=width,
        depth=tower.take("layers", int, 12),
        num_heads=width // head_width if head_width else None,
        mlp_dim=int(width * ratio),
        patch_size=patch,
        image_size=size,
        layer_scale=scale,
        norm_eps=epsilon,
        gelu=gelu,
        head=dict(tok="token", avg="gap")[pool],
        pool_then_norm=after and pool == "avg",
    )
    tower.ignore(("timm_pool", "timm_proj", "timm_proj_bias"))
    tower.close()
    return result


def _gelu(tower: Fields, quick: bool) -> str:
    """Our name of the formula of GELU."""
    arguments = tower.section("act_kwargs")
    tanh = arguments.only("approximate", "none", "tanh") == "tanh"
    arguments.close()
    if quick and tanh:
        raise tower.error("act_kwargs", "tanh", "quick_gelu says another formula of GELU")
    if quick:
        return "quick"
    return "tanh" if tanh else "erf"


def recipe(found: Recognised) -> Recipe:
    """The preprocessing in open_clip_config.json; without that file CLIP's.

    Raises:
      InputError: a field that is not understood.
    """
    if NAME not in found.configs:
        return USUAL
    _, tower, prepared = opened(found)
    return preprocessing(prepared, tower.size("image_size", (224, 224)))


def preprocessing(config: Fields, size: tuple[int, int] | None) -> Recipe:
    """The preprocessing of `preprocess_cfg` for images of the tower's size."""
    notes = []
    config.size("size")  # open_clip takes the tower's image_size instead
    config.only("mode", "RGB")
    method = config.take("interpolation", str, "bicubic")
    mode = config.only("resize_mode", "shortest", "squash", "longest")
    fill = config.rest().get("fill_color")
    config.ignore(("fill_color",))
    if method not in METHODS:
        notes.append(f"resampling is bicubic here, not {method[:20]} (interpolation)")
        method = "bicubic"
    if mode == "longest":
        notes.append(f"images are cropped here, not padded with {fill or 0} (resize_mode longest)")
    result = Recipe(
        share=1.0,
        squash=mode == "squash",
        method=method,
        mean=config.numbers("mean", 3, CLIP_MEAN),
        std=config.numbers("std", 3, CLIP_STD),
        floor=True,
        truncate=True,
        size=size,
        notes=tuple(notes),
    )
    config.close()
    return result
