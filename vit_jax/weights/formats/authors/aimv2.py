"""Apple's own files of AIMv2 (2411.14402)."""

from collections.abc import Mapping
from typing import Any

from vit_jax.weights.families import FAMILIES, QKV, Family, Recognised
from vit_jax.weights.files.json_fields import Fields
from vit_jax.weights.formats.open_clip.names import CLIP_MEAN, CLIP_STD
from vit_jax.weights.formats.rows import dense, norm
from vit_jax.weights.layout import Table
from vit_jax.weights.preprocessing import Recipe

_LAYER = "trunk.blocks.{l}"
_TABLE: Table = {
    **dense("embedding", "preprocessor.patchifier.proj", "dipq", "d"),
    **norm("patch_norm", "preprocessor.patchifier.norm"),
    "posemb/embedding": ("preprocessor.pos_embed", "1nd"),
    **norm("blocks/norm1", f"{_LAYER}.norm_1"),
    **dense("blocks/attention/qkv", f"{_LAYER}.attn.qkv", "(thk)d", "(thk)"),
    **dense("blocks/attention/out", f"{_LAYER}.attn.proj", "d(hk)", "d"),
    **norm("blocks/norm2", f"{_LAYER}.norm_2"),
    # fc1 is the gate, fc3 the value, fc2 the last layer.
    **dense("blocks/mlp/gated", f"{_LAYER}.mlp.fc{{g}}", "md", "m"),
    **dense("blocks/mlp/fc2", f"{_LAYER}.mlp.fc2", "dm", "d"),
    **norm("norm", "trunk.post_trunk_norm"),
}
_HEADS = {1024: 8, 1536: 12, 2048: 16, 3072: 24}  # by width: L, H, 1B, 3B


# Fields of config.json that do not change what is computed from given tensors.
_HARMLESS = (
    *("architectures", "auto_map", "dtype", "torch_dtype", "transformers_version"),
    *("_name_or_path", "attention_dropout", "projection_dropout", "initializer_range"),
)


def _hints(found: Recognised) -> Mapping[str, Any]:
    """Fields of the configuration, from Apple's config.json or those of the published models.

    Raises:
      InputError: a field of config.json that is not understood, or that asks for another network.
    """
    native = "preprocessor.pos_embed" not in found.tensors
    width = found.tensors["preprocessor.patchifier.proj.weight"].shape[0]
    config = Fields(found.config_json, f"{found.path}: config.json")
    config.only("model_type", "aimv2", "aimv2_vision_model")
    config.only("num_channels", 3)
    config.only("qkv_bias", "trunk.blocks.0.attn.qkv.bias" in found.tensors)
    config.only("use_bias", "trunk.blocks.0.mlp.fc2.bias" in found.tensors)
    config.only("is_native", native)
    result = dict(
        width=config.take("hidden_size", int),
        depth=config.take("num_hidden_layers", int),
        mlp_dim=config.take("intermediate_size", int),
        patch_size=config.size("patch_size"),
        image_size=config.size("image_size", (224, 224) if native else None),
        num_heads=config.take("num_attention_heads", int, _HEADS.get(width)),
        norm_eps=config.take("rms_norm_eps", float, 1e-5),
        gelu="erf",  # the MLPs are gated and have no GELU
        head="gap",
        # The models for images of any size compute their positions.
        posemb="sincos2d(endpoint=False)" if native else None,
    )
    config.ignore(_HARMLESS)
    config.close()
    return result


def _recipe(found: Recognised) -> Recipe:
    """The preprocessing in preprocessor_config.json; without that file the usual one."""
    if "preprocessor_config.json" in found.configs:
        return FAMILIES["Hugging Face ViT"].recipe(found)
    return Recipe(1.0, False, "bicubic", True, CLIP_MEAN, CLIP_STD, truncate=True)


FAMILIES.add(
    "Apple's AIMv2",
    Family(
        ("preprocessor.patchifier.proj.weight", "trunk.post_trunk_norm.weight"),
        _TABLE,
        _hints,
        _recipe,
        words=QKV | dict(g=("1", "3")),
    ),
)
