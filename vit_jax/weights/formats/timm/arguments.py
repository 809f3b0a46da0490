"""Reads the arguments of timm's classes into fields of our configuration."""

from collections.abc import Callable
from typing import Any

from vit_jax.errors import InputError
from vit_jax.models.positions.rotary import Centred, Indexed, Mixed
from vit_jax.weights.families import Recognised
from vit_jax.weights.files.json_fields import Fields
from vit_jax.weights.formats.rows import TORCH_RESNET

# Arguments that do not change what a model computes from given tensors.
_TRAINING = (
    *("drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate"),
    *("drop_path_rate", "weight_init", "fix_init", "zero_init_last", "device", "dtype"),
    *("num_classes", "head_init_scale", "rope_shift_coords", "rope_jitter_coords"),
)
# Norms -> our kind and the epsilon; those with a number stand in the tables alone.
NORMS = {
    "layernorm": ("layer", 1e-6),
    "layernormfp32": ("layer", 1e-6),
    "layernorm(1e-05)": ("layer", 1e-5),
    "rmsnorm": ("rms", 1e-6),
    "rmsnormfp32": ("rms", 1e-6),
    "rmsnorm(1e-06)": ("rms", 1e-6),
    "rmsnorm(1e-05)": ("rms", 1e-5),
}
_GELU = {"gelu": "erf", "gelu_tanh": "tanh", "quick_gelu": "quick"}
BLOCKS = {
    None: "sequential",
    "ResPostBlock": "post_norm",
    "ParallelScalingBlock": "parallel",
    "ParallelThingsBlock": "branched(count=2)",
    "ResPostRelPosBlock": "post_norm",
}
_HEADS = dict(token="token", avg="gap", map="map")


def has_fc_norm(found: Recognised) -> bool:
    """Whether the last norm of the file is the one after pooling."""
    return any(name.endswith("fc_norm.weight") for name in found.original.values())


def call(name: str, defaults: dict[str, Any], **arguments: Any) -> str:
    """A text such as "indexed(offset=1.0)", of the arguments that differ from the defaults."""
    words = [f"{key}={value!r}" for key, value in arguments.items() if value != defaults[key]]
    return f"{name}({', '.join(words)})" if words else name


def _vit(found: Recognised, config: Fields, saved: str | None) -> dict[str, Any]:
    """Fields from the arguments of VisionTransformer."""
    pool = _pool(config, saved, "token", "avg", "map")
    fields = _shape(config) | _sizes(config)
    block = config.only("block_fn", *[name for name in BLOCKS if name != "ResPostRelPosBlock"])
    gate = config.only("mlp_layer", None, "SwiGLU", "SwiGLUPacked")
    norm, epsilon = NORMS[config.only("norm_layer", *NORMS)]
    embedded = config.only("embed_norm_layer", None, "", *NORMS) or None
    if embedded is not None and NORMS[embedded] != (norm, epsilon):
        raise config.error("embed_norm_layer", embedded, "it differs from norm_layer")
    stem = config.only("embed_layer", None, "ResNetV2", "Sequential")
    if stem and embedded:
        raise config.error("embed_norm_layer", embedded, "it is not supported with a ResNet")
    config.only("attn_layer", "attn", "")
    pre_norm = config.take("pre_norm", bool, False)
    has_bias = config.take("proj_bias", bool, True)
    inner = {name: config.take(f"scale_{name}", bool, False) for name in ("attn_norm", "mlp_norm")}
    activation = config.take("act_layer", str, "gelu")
    if (activation not in _GELU) if not gate else (activation != "silu" or pool == "map"):
        raise config.error("act_layer", activation, f"it is not supported, only {', '.join(_GELU)}")
    if block == "ParallelScalingBlock" and (not has_bias or any(inner.values()) or gate):
        raise config.error("block_fn", block, "it needs proj_bias, and no scale norms or mlp_layer")
    if block == "ParallelThingsBlock" and gate:
        raise config.error("block_fn", block, "it is not supported with mlp_layer")
    fc_norm = config.take("fc_norm", bool, pool == "avg")
    final_norm = config.take("final_norm", bool, True)
    fields |= _last_norm(
        found, config, pool, fc_norm and final_norm, final_norm and not fc_norm, "fc_norm"
    )
    with_prefix = config.take("pool_include_prefix", bool, False) and pool != "token"
    learnt = (
        config.only("pos_embed", "learn", "none", "") == "learn" or "dist_token" in found.tensors
    )
    fields |= _positions(found, config, learnt, "pos_embed")
    fields |= dict(
        mlp="swiglu" if gate else "gelu",
        mlp_dim=fields["mlp_dim"] // 2 if gate == "SwiGLUPacked" else fields["mlp_dim"],
        pool_prefix=bool(with_prefix and _prefix(found)),
        block=BLOCKS[block],
        qkv_bias="all" if config.take("qkv_bias", bool, True) else "none",
        out_bias=has_bias,
        mlp_bias=has_bias,
        norm=norm,
        norm_eps=epsilon,
        gelu=_GELU.get(activation, "erf"),
        norm_pre=pre_norm,
        patch_bias=not pre_norm,
        patch_norm=embedded is not None,
        attention_norm=inner["attn_norm"],
        mlp_norm=inner["mlp_norm"],
        qk_norm=config.take("qk_norm", bool, False),
        registers=config.take("reg_tokens", int, 0),
        posemb_class_slot=not config.take("no_embed_class", bool, False),
        **TORCH_RESNET,
    )
    _class_token(found, config, config.take("class_token", bool, True))
    return _closed(config, fields)


def _distilled(found: Recognised, config: Fields, saved: str | None) -> dict[str, Any]:
    """Fields from the arguments of VisionTransformerDistilled."""
    pool = config.rest().get("global_pool") or "token"
    if pool != "token":
        raise config.error("global_pool", pool, "it is not supported, only 'token'")
    for name in ("reg_tokens", "fc_norm", "no_embed_class"):  # timm's class ignores them
        if config.rest().get(name):
            raise config.error(name, config.rest()[name], "it is not supported, only false or 0")
    return _vit(found, config, saved)


def _eva(found: Recognised, config: Fields, saved: str | None) -> dict[str, Any]:
    """Fields from the arguments of Eva."""
    pool = _pool(config, saved, "avg", "token", "map")
    fields = _shape(config) | _sizes(config)
    norm, epsilon = NORMS[config.only("norm_layer", *NORMS)]
    config.only("attn_only_layer_scale", False)
    config.only("num_kv_heads", None, fields["num_heads"])
    config.take("qkv_fused", bool)
    attention = config.only("attn_type", "eva", "rope")
    biased = config.take("qkv_bias", bool, True)
    post_norm = config.take("use_post_norm", bool, False)
    pre_norm = config.take("use_pre_transformer_norm", bool, False)
    scale_mlp = config.take("scale_mlp", bool, False)
    gated = config.take("swiglu_mlp", bool, False)
    align = config.take("swiglu_align_to", int, 0)
    if gated and align and (scale_mlp or not post_norm):
        fields["mlp_dim"] += -fields["mlp_dim"] % align
    fc_norm = config.take("use_fc_norm", bool, pool == "avg")
    last = config.take("use_post_transformer_norm", bool, not fc_norm)
    fields |= _last_norm(found, config, pool, fc_norm, last, "use_fc_norm")
    fields |= _positions(
        found, config, config.take("use_abs_pos_emb", bool, True), "use_abs_pos_emb"
    )
    fields |= dict(
        mlp="swiglu" if gated else "gelu",
        pool_prefix=bool(pool == "map" and _prefix(found)),
        block="post_norm" if post_norm else "sequential",
        qkv_bias=("no_key" if attention == "eva" else "all") if biased else "none",
        out_bias=True,
        mlp_bias=True,
        norm=norm,
        norm_eps=epsilon,
        gelu="erf",
        norm_pre=pre_norm,
        patch_bias=not pre_norm,
        patch_norm=False,
        attention_norm=config.take("scale_attn_inner", bool, False),
        mlp_norm=scale_mlp,
        qk_norm=config.take("qk_norm", bool, False),
        registers=config.take("num_reg_tokens", int, 0),
        posemb_class_slot=not config.take("no_embed_class", bool, False),
        rotary=_rotary(config),
    )
    if (heads := config.take("attn_pool_num_heads", int)) and pool == "map":
        fields["map_heads"] = heads
    config.take("attn_pool_mlp_ratio", float)  # tensors show it
    _class_token(found, config, config.take("class_token", bool, True))
    return _closed(config, fields)


def _rotary(config: Fields) -> str:
    """The option `rotary` from Eva's arguments."""
    kind = config.only("rope_type", "cat", "mixed", "dinov3")
    offset = config.take("rope_grid_offset", float, 0.0)
    order = dict(ij="yx", xy="xy")[config.only("rope_grid_indexing", "ij", "xy")]
    base = config.take("rope_temperature", float, 10_000.0)
    half = config.take("rope_rotate_half", bool, False)
    rescale = config.take("rope_rescale_coords", float, 1.0)
    reference = config.size("ref_feat_shape", (0, 0))
    assert reference is not None
    config.only("rope_mrope_section", None)
    if not config.take("use_rot_pos_emb", bool, False):
        return "none"
    layout = "half" if half else "interleaved"
    if kind == "cat":
        known = vars(Indexed())
        side = reference[0] if reference[0] == reference[1] else reference
        own = dict(base=base, reference=side, offset=offset, order=order, layout=layout)
        return call("indexed", known, **own)
    if kind == "mixed":
        if half:
            raise config.error("rope_rotate_half", True, "it is not supported with rope_type mixed")
        return call("mixed", vars(Mixed()), base=base, order=order)
    if offset or order != "yx":
        raise config.error("rope_type", kind, "only rope_grid_offset 0 and rope_grid_indexing ij")
    return call("centred", vars(Centred()), base=base, rescale=rescale, layout=layout)


def _beit(found: Recognised, config: Fields, saved: str | None) -> dict[str, Any]:
    """Fields from the arguments of Beit."""
    pool = _pool(config, saved, "avg", "token")
    fields = _shape(config) | _sizes(config)
    norm, epsilon = NORMS[config.only("norm_layer", *NORMS)]
    fc_norm = config.take("use_fc_norm", bool, pool == "avg")
    fields |= _last_norm(found, config, pool, fc_norm, not fc_norm, "use_fc_norm")
    fields |= _positions(
        found, config, config.take("use_abs_pos_emb", bool, True), "use_abs_pos_emb"
    )
    own, shared = (config.take(f"use_{kind}", bool, False) for kind in _BIASES)
    if own and shared:
        raise config.error("use_shared_rel_pos_bias", True, "beside use_rel_pos_bias")
    fields |= dict(
        mlp="swiglu" if config.take("swiglu_mlp", bool, False) else "gelu",
        qkv_bias="no_key" if config.take("qkv_bias", bool, True) else "none",
        mlp_norm=config.take("scale_mlp", bool, False),
        norm=norm,
        norm_eps=epsilon,
        position_bias=f"table(shared={shared})" if own or shared else "none",
        **_PLAIN,
    )
    _class_token(found, config, True)
    return _closed(config, fields)


_BIASES = ("rel_pos_bias", "shared_rel_pos_bias")
# What neither BEiT nor the ViTs with a relative position bias have.
_PLAIN: dict[str, Any] = dict(
    out_bias=True, mlp_bias=True, patch_bias=True, patch_norm=False, norm_pre=False, gelu="erf"
)
_PLAIN |= dict(attention_norm=False, registers=0, rotary="none", pool_prefix=False)


def _relpos(found: Recognised, config: Fields, saved: str | None) -> dict[str, Any]:
    """Fields from the arguments of VisionTransformerRelPos."""
    pool = _pool(config, saved, "avg", "token")
    fields = _shape(config) | _sizes(config)
    config.only("norm_layer", None)
    config.only("act_layer", None)
    config.only("embed_layer", None)
    fc_norm = config.take("fc_norm", bool, False)
    fields |= _last_norm(found, config, pool, fc_norm, not fc_norm, "fc_norm")
    fields |= _positions(found, config, False, "")
    kind = config.only("rel_pos_type", "mlp", "bias")
    shared = config.take("shared_rel_pos", bool, False)
    hidden = config.take("rel_pos_dim", int, 0) or 128
    own = f"table(shared={shared})" if kind == "bias" else f"mlp(shared={shared}, hidden={hidden})"
    fields |= dict(
        mlp="gelu",
        mlp_norm=False,
        qkv_bias="all" if config.take("qkv_bias", bool, True) else "none",
        qk_norm=config.take("qk_norm", bool, False),
        norm="layer",
        norm_eps=1e-6,
        block=BLOCKS[config.only("block_fn", None, "ResPostRelPosBlock")],
        position_bias=own,
        **_PLAIN,
    )
    _class_token(found, config, config.take("class_token", bool, False))
    return _closed(config, fields)


def _bit(found: Recognised, config: Fields, saved: str | None) -> dict[str, Any]:
    """Fields from the arguments of ResNetV2, of a BiT."""
    _pool(config, saved, "avg")
    config.only("in_chans", 3)
    config.only("output_stride", 32)
    config.only("stem_type", "fixed")
    config.only("stem_chs", 64)
    config.only("preact", True)
    config.only("bottle_ratio", 0.25)
    config.only("act_layer", "relu")
    for name in ("avg_down", "basic"):
        config.only(name, False)
    size = config.size("img_size")
    config.ignore(("layers", "channels", "width_factor"))
    return _closed(config, dict(image_size=size, **TORCH_RESNET))


def _pool(config: Fields, saved: str | None, *allowed: str) -> str:
    """The argument `global_pool`; config.json may give it twice."""
    pool = config.only("global_pool", *allowed)
    if saved not in (None, pool):
        raise InputError(
            f"{config.where}: global_pool is {pool!r} there and {saved!r} in the file's own "
            "global_pool; write the right one into model_args"
        )
    return pool


def _shape(config: Fields) -> dict[str, Any]:
    """Fields that all ViTs have in common."""
    config.only("in_chans", 3)
    size = config.size("img_size", (224, 224))
    patch = config.size("patch_size", (16, 16))
    rest = [side % each for side, each in zip(size or (), patch or ())]
    if config.take("dynamic_img_pad", bool, False) and any(rest):
        raise config.error("dynamic_img_pad", True, "images are not padded to patches here")
    config.take("dynamic_img_size", bool)
    return dict(image_size=size, patch_size=patch, layer_scale=config.take("init_values", float))


def _sizes(config: Fields) -> dict[str, Any]:
    width = config.take("embed_dim", int, 768)
    return dict(
        width=width,
        depth=config.take("depth", int, 12),
        num_heads=config.take("num_heads", int, 12),
        mlp_dim=int(width * config.take("mlp_ratio", float, 4.0)),
    )


def _last_norm(
    found: Recognised, config: Fields, pool: str, pooled: bool, last: bool, name: str
) -> dict[str, Any]:
    """Fields about the norm after the blocks: of the pooled vector, of all tokens, or none."""
    if pooled and pool == "map":
        raise config.error(name, True, "it is not supported with global_pool 'map'")
    if pooled and last:
        raise config.error(name, True, "beside a norm of all tokens it is not supported")
    if (pooled or last) and pooled != has_fc_norm(found):
        where = ("fc_norm", "norm") if pooled else ("norm", "fc_norm")
        raise InputError(f"{config.where}: its last norm is {where[0]}, the file has {where[1]}")
    return dict(
        head=_HEADS[pool], final_norm=pooled or last, pool_then_norm=pooled and pool == "avg"
    )


def _positions(found: Recognised, config: Fields, learnt: bool, name: str) -> dict[str, Any]:
    """Fields about the learnt position embedding; `name` is the argument, for messages."""
    if learnt != ("pos_embed" in found.tensors):
        has = "no pos_embed" if learnt else "a pos_embed"
        raise InputError(f"{config.where}: its {name} does not suit the file, which has {has}")
    return dict(posemb=None if learnt else "none")


def _prefix(found: Recognised) -> bool:
    """Whether there are tokens before the patches."""
    return bool({"cls_token", "reg_token", "dist_token"} & found.tensors.keys())


def _class_token(found: Recognised, config: Fields, wanted: bool) -> None:
    if wanted != ("cls_token" in found.tensors):
        has = "no cls_token" if wanted else "a cls_token"
        raise InputError(f"{config.where}: class_token is {wanted}, but the file has {has}")


def _closed(config: Fields, fields: dict[str, Any]) -> dict[str, Any]:
    config.ignore(_TRAINING)
    config.close()
    return fields


Reader = Callable[[Recognised, Fields, str | None], dict[str, Any]]
READERS: dict[str, Reader] = dict(
    vit=_vit, distilled=_distilled, eva=_eva, beit=_beit, relpos=_relpos, bit=_bit
)
