"""Reads config.json of transformers."""

from collections.abc import Mapping
from typing import Any

from vit_jax.weights.families import Recognised
from vit_jax.weights.files.json_fields import Fields
from vit_jax.weights.formats.rows import GELU, TORCH_RESNET

# Fields of config.json that do not change what a classifier computes from given tensors.
HARMLESS = (
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
    *("num_labels", "vit_jax", "attention_dropout", "initializer_factor", "projection_size"),
    *("return_class_token", "segmentation_indices"),
)


# What transformers once wrote into every configuration for the sake of text.
_OF_TEXT = (
    *("bad_words_ids", "begin_suppress_tokens", "bos_token_id", "decoder_start_token_id"),
    *(
        "diversity_penalty",
        "do_sample",
        "dropout",
        "early_stopping",
        "encoder_no_repeat_ngram_size",
    ),
    *("eos_token_id", "exponential_decay_length_penalty", "forced_bos_token_id"),
    *("forced_eos_token_id", "length_penalty", "max_length", "min_length", "no_repeat_ngram_size"),
    *("num_beam_groups", "num_beams", "num_return_sequences", "output_scores", "pad_token_id"),
    *("prefix", "remove_invalid_values", "repetition_penalty", "return_dict_in_generate"),
    *("sep_token_id", "suppress_tokens", "task_specific_params", "temperature", "tie_weights"),
    *("tokenizer_class", "top_k", "top_p", "typical_p", "renormalize_logits"),
)
Defaults = Mapping[str, Any]


def opened(found: Recognised) -> Fields:
    """The content of config.json."""
    return Fields(found.config_json, f"{found.path}: config.json")


def image_tower(found: Recognised, *kinds: str, aside: tuple[str, ...]) -> Fields:
    """The part of config.json that describes the image tower of a pair of towers.

    Args:
      found: a file.
      *kinds: the model_type of a pair, and that of an image tower alone.
      aside: further fields of a pair that do not concern the image tower.
    """
    config = opened(found)
    kind = config.only("model_type", *kinds)
    # The towers' older fields beside them take precedence in transformers.
    older = "vision_config_dict" if config.rest().get("vision_config_dict") else "vision_config"
    if kind != kinds[0] or not found.config_json:
        return config
    tower = config.section(older)
    config.ignore(("vision_config", "vision_config_dict", "text_config", "text_config_dict"))
    config.ignore((*HARMLESS, "projection_dim", "logit_scale_init_value", *aside))
    config.close()
    tower.only("model_type", kinds[1])
    return tower


def network(
    config: Fields, found: Recognised, defaults: Defaults, eps: str = "layer_norm_eps"
) -> dict[str, Any]:
    """The fields of config.json that families have in common.

    Args:
      config: the fields.
      found: the file they belong to.
      defaults: what transformers takes for a field that config.json lacks: num_heads, gelu,
        norm_eps. Without a config.json only norm_eps is taken from here: it is the same for
        all files of a family.
      eps: name of the field with the epsilon of norms.
    """
    config.only("num_channels", 3)
    known = defaults if found.config_json else {}
    result = dict(
        width=config.take("hidden_size", int),
        depth=config.take("num_hidden_layers", int),
        num_heads=config.take("num_attention_heads", int, known.get("num_heads")),
        mlp_dim=config.take("intermediate_size", int),
        patch_size=config.size("patch_size"),
        image_size=config.size("image_size"),
        norm_eps=config.take(eps, float, defaults["norm_eps"]),
    )
    if "gelu" in defaults:
        named = config.rest().get("hidden_act") is not None
        result["gelu"] = GELU[config.only("hidden_act", *GELU)] if named else known.get("gelu")
    return result


def agrees(config: Fields, name: str, there: bool) -> None:
    """Refuses a field that says otherwise than the tensors whether a part of the model is there."""
    value = config.take(name, bool)
    if value is not None and value != there:
        has = "have" if there else "lack"
        raise config.error(name, value, f"the tensors {has} that part; one of both is wrong")


def registers(config: Fields, found: Recognised) -> None:
    """Compares the number of registers with their tensor."""
    tensor = found.tensors.get("embeddings.register_tokens")
    count = 0 if tensor is None or tensor.ndim != 3 else tensor.shape[1]
    value = config.take("num_register_tokens", int)
    if value is not None and value != count:
        why = f"the tensors hold {count}; one of both is wrong"
        raise config.error("num_register_tokens", value, why)


def close(config: Fields) -> None:
    """Refuses what is left of the fields, except what changes no result."""
    config.only("pruned_heads", {})
    config.ignore((*HARMLESS, *_OF_TEXT))
    config.close()


_HAS_BIAS = "encoder.layer.0.attention.attention.key.bias"


def hints(found: Recognised) -> Mapping[str, Any]:
    """Fields of a ViT's configuration, from config.json or from transformers' defaults.

    Raises:
      InputError: a field that is not understood, or that asks for another network.
    """
    config = opened(found)
    kind = config.only("model_type", "vit", "deit", "vit-hybrid", "vit_mae", "ijepa", "vit_msn")
    agrees(config, "qkv_bias", _HAS_BIAS in found.tensors)
    config.only("pooler_act", "tanh")
    eps = 1e-6 if kind == "vit_msn" else 1e-12
    result = network(config, found, dict(norm_eps=eps, gelu="erf")) | TORCH_RESNET
    result["gelu"] = result["gelu"] or "erf"
    if kind == "vit_mae":  # of the decoder and of training
        config.ignore(("mask_ratio", "norm_pix_loss", "decoder_hidden_size"))
        config.ignore(("decoder_num_attention_heads", "decoder_num_hidden_layers"))
        config.ignore(("decoder_intermediate_size",))
    if "stem.conv_root.weight" in found.tensors or "backbone_config" in found.config_json:
        _check_bit(config.section("backbone_config"), "bottleneck")
    close(config)
    return result


def dinov2_hints(found: Recognised) -> Mapping[str, Any]:
    """Fields of the configuration of a DINOv2; see `hints`."""
    config = opened(found)
    config.only("model_type", "dinov2", "dinov2_with_registers")
    agrees(config, "qkv_bias", _HAS_BIAS in found.tensors)
    result = network(config, found, dict(norm_eps=1e-6, gelu="erf"))
    result["gelu"] = result["gelu"] or "erf"
    result["layer_scale"] = config.take("layerscale_value", float)
    ratio, gated = config.take("mlp_ratio", float), config.take("use_swiglu_ffn", bool)
    registers(config, found)
    whole = ratio is not None and result["width"] is not None and not gated
    # There is no intermediate_size.
    result["mlp_dim"] = int(result["width"] * ratio) if whole else None
    close(config)
    return result


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
    config.ignore(HARMLESS)
    config.close()
