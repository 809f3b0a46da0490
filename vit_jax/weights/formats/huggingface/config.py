"""Reads config.json and preprocessor_config.json of transformers."""

from collections.abc import Mapping
from typing import Any

from vit_jax.weights.families import Recognised
from vit_jax.weights.files.json_fields import Fields
from vit_jax.weights.formats.rows import GELU, TORCH_RESNET
from vit_jax.weights.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Recipe

PILLOW = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # its numbers for methods
# Fields of config.json that do not change what a classifier computes from given tensors.
_HARMLESS = (
    *("_name_or_path", "architectures", "chunk_size_feed_forward", "dtype", "torch_dtype"),
    *("id2label", "label2id", "problem_type", "return_dict", "transformers_version"),
    *("output_attentions", "output_hidden_states", "is_encoder_decoder", "use_cache"),
    *("_attn_implementation_autoset", "_attn_implementation", "_commit_hash", "torchscript"),
    *("use_bfloat16", "tf_legacy_loss", "tie_word_embeddings", "tie_encoder_decoder"),
    *("is_decoder", "add_cross_attention", "cross_attention_hidden_size", "finetuning_task"),
    *("initializer_range", "encoder_stride", "pooler_output_size", "hidden_dropout_prob"),
    *("attention_probs_dropout_prob", "drop_path_rate", "use_mask_token", "stage_names"),
    *("out_features", "out_indices", "apply_layernorm", "reshape_hidden_states"),
    *("backbone_featmap_shape", "embedding_size", "hidden_sizes", "depths", "width_factor"),
    *("num_labels", "vit_jax"),
)


def hints(found: Recognised, norm_eps: float = 1e-12) -> Mapping[str, Any]:
    """Fields of a ViT's configuration, from config.json or from transformers' defaults.

    Raises:
      InputError: a field that is not understood, or that asks for another network.
    """
    config = Fields(found.config_json, f"{found.path}: config.json")
    dinov2 = found.name.endswith("DINOv2")
    config.only("model_type", *_TYPES[dinov2])
    config.only("num_channels", 3)
    config.only("qkv_bias", True)
    config.only("pooler_act", "tanh")
    width = config.take("hidden_size", int)
    result = dict(
        width=width,
        depth=config.take("num_hidden_layers", int),
        num_heads=config.take("num_attention_heads", int),
        mlp_dim=config.take("intermediate_size", int),
        patch_size=config.size("patch_size"),
        norm_eps=config.take("layer_norm_eps", float, norm_eps),
        gelu=GELU[config.only("hidden_act", *GELU)],
        image_size=config.size("image_size"),
        layer_scale=config.take("layerscale_value", float),
        **TORCH_RESNET,
    )
    if dinov2:
        ratio, gated = config.take("mlp_ratio", float), config.take("use_swiglu_ffn", bool)
        config.take("num_register_tokens", int)
        whole = ratio is not None and width is not None and not gated
        result["mlp_dim"] = int(width * ratio) if whole else None  # no intermediate_size there
    if "stem.conv_root.weight" in found.tensors or "backbone_config" in found.config_json:
        _check_bit(config.section("backbone_config"), "bottleneck")
    config.ignore(_HARMLESS)
    config.close()
    return result


_TYPES = {
    False: ("vit", "deit", "vit-hybrid"),
    True: ("dinov2", "dinov2_with_registers"),
}


def dinov2_hints(found: Recognised) -> Mapping[str, Any]:
    """Fields of the configuration of a DINOv2; see `hints`."""
    return hints(found, norm_eps=1e-6)


def bit_hints(found: Recognised) -> Mapping[str, Any]:
    """Fields of a BiT's configuration; see `hints`."""
    config = Fields(found.config_json, f"{found.path}: config.json")
    preact = "embedder.norm.weight" not in found.tensors
    _check_bit(config, "preactivation" if preact else "bottleneck")
    return dict(TORCH_RESNET)


def _check_bit(config: Fields, layer: str) -> None:
    """Refuses a ResNet that is not computed as the models here do."""
    given = bool(config.rest())
    config.only("model_type", "bit")
    config.only("num_channels", 3)
    config.only("num_groups", 32)
    config.only("hidden_act", "relu")
    config.only("output_stride", 32)
    if given and config.take("layer_type", str, "preactivation") != layer:
        raise config.error("layer_type", "another", f"the tensors are those of {layer}")
    same = layer == "bottleneck"
    padding = config.take("global_padding", str)
    dynamic = config.take("embedding_dynamic_padding", bool, False)
    if given and (padding and padding.upper()) != ("SAME" if same else None):
        raise config.error("global_padding", padding, f"it is not supported with {layer}")
    if given and dynamic != same:
        raise config.error("embedding_dynamic_padding", dynamic, f"not supported with {layer}")
    config.ignore(_HARMLESS)
    config.close()


_CROPPED = Recipe(224 / 256, False, "bicubic", True, IMAGENET_MEAN, IMAGENET_STD, truncate=True)
_PROCESSOR = (
    *("image_processor_type", "feature_extractor_type", "processor_class", "do_convert_rgb"),
    *("data_format", "input_data_format", "return_tensors", "device", "disable_grouping"),
    *("_valid_processor_keys", "default_to_square", "do_pad", "pad_size", "auto_map"),
)


def vit_recipe(found: Recognised) -> Recipe:
    """The preprocessing of a ViT or DeiT."""
    deit = "embeddings.distillation_token" in found.tensors
    return recipe(found, _CROPPED if deit else Recipe())


def recipe(found: Recognised, usual: Recipe = _CROPPED) -> Recipe:
    """The preprocessing in preprocessor_config.json; without that file, the usual one.

    Raises:
      InputError: a field that is not understood.
    """
    document = found.configs.get("preprocessor_config.json")
    if document is None:
        return usual
    config = Fields(document, f"{found.path}: preprocessor_config.json")
    notes = []
    kind = config.take("image_processor_type", str) or config.take("feature_extractor_type", str)
    square = not (kind or "").startswith("Bit")
    sides, keeps = _sides(config, "size", square)
    cropped, _ = _sides(config, "crop_size", True)
    if not config.take("do_center_crop", bool, False):
        cropped = None
    if not config.take("do_resize", bool, True):
        notes.append("images are resized here, which the files do not ask for (do_resize)")
    if config.rest().get("do_pad"):
        notes.append("images are not padded here (do_pad)")
    number = config.take("resample", int, 2)
    if number not in PILLOW:
        notes.append(f"resampling is bicubic here, not Pillow's method {number} (resample)")
    scale = config.take("rescale_factor", float, 1 / 255)
    scale = 255 * scale if config.take("do_rescale", bool, True) else 255.0
    if not scale:
        raise config.error("rescale_factor", scale, "it must not be 0")
    mean, std = config.numbers("image_mean", 3, usual.mean), config.numbers("image_std", 3)
    std = std or usual.std
    if config.take("do_normalize", bool, True) is False:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    config.ignore(_PROCESSOR)
    config.close()
    return Recipe(
        share=min(cropped) / min(sides) if cropped and sides else 1.0,
        squash=not keeps,
        method=PILLOW.get(number, "bicubic"),
        mean=tuple(value / scale for value in mean),
        std=tuple(value / scale for value in std),
        truncate=keeps,
        size=cropped or sides,
        notes=tuple(notes),
    )


def _sides(config: Fields, name: str, square: bool) -> tuple[tuple[int, int] | None, bool]:
    """A field with the sides of images in pixels, and whether the aspect ratio is kept."""
    value = config.rest().get(name)
    if not isinstance(value, Mapping):
        return config.size(name), value is not None and not square
    inner = config.section(name)
    shortest = inner.size("shortest_edge")
    height, width = inner.size("height"), inner.size("width")
    inner.close()
    if shortest:
        return shortest, True
    if not height or not width:
        raise config.error(name, value, "it must have height and width, or shortest_edge")
    return (height[0], width[0]), False
