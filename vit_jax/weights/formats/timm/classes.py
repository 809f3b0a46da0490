"""timm's classes of ViTs: which models each can express, and with which arguments."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.errors import InputError
from vit_jax.models.positions.rotary import Centred, Indexed, Mixed
from vit_jax.models.vit_config import ViTConfig
from vit_jax.weights.formats.rows import RESNET, SIZES
from vit_jax.weights.formats.timm.architectures import architecture
from vit_jax.weights.write import ANY, check_expressible, side_length


@dataclasses.dataclass(frozen=True)
class Described:
    """A model in timm's words.

    Attributes:
      architecture: timm's name of the nearest architecture.
      arguments: `model_args`, the differences from it.
      epsilon: epsilon of the norms that timm will use.
      renames: (pattern, replacement) from the names of the table to the class's.
      split_gate: whether gate and value of an MLP are two tensors.
    """

    architecture: str
    arguments: dict[str, Any]
    epsilon: float
    renames: Sequence[tuple[str, str]] = ()
    split_gate: bool = False


_ALWAYS = ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio")
# Defaults of the classes for the arguments that are given below.
_DEFAULTS: dict[str, Any] = dict(
    class_token=True, qkv_bias=True, pos_embed="learn", proj_bias=True, final_norm=True
)
_DEFAULTS |= dict(rope_type="cat", rope_temperature=10_000.0, rope_grid_indexing="ij")
_DEFAULTS |= dict(use_abs_pos_emb=True, rel_pos_type="mlp", attn_type="eva", num_kv_heads=None)
_RELPOS_DEFAULTS = _DEFAULTS | dict(class_token=False, init_values=1e-6)
# Options that all classes can express.
_SHAPE = SIZES | dict.fromkeys(
    (
        *("width", "depth", "mlp_dim", "num_heads", "patch_size", "norm_eps", "qk_norm"),
        *("layer_scale", "pool_then_norm", "class_token", "mlp", "qkv_bias"),
    ),
    ANY,
)
_TOKENS = ("registers", "posemb_class_slot", "posemb_register_slots")
_GAMMA = ((r"\.ls(\d)\.gamma$", r".gamma_\1"),)
_TABLE = (r"rel_pos\.table$", "rel_pos.relative_position_bias_table")
_BEIT_NAMES = (
    (r"\.attn\.rel_pos\.table$", ".attn.relative_position_bias_table"),
    (r"^rel_pos\.table$", "rel_pos_bias.relative_position_bias_table"),
)
_PARALLEL_NAMES = (
    (r"^(blocks\.\d+)\.norm1\.", r"\1.in_norm."),
    (r"^(blocks\.\d+)\.attn\.([qk]_norm)\.", r"\1.\2."),
    (r"^(blocks\.\d+)\.attn\.proj\.", r"\1.attn_out_proj."),
    (r"^(blocks\.\d+)\.mlp\.fc1\.bias$", r"\1.mlp_bias"),
    (r"^(blocks\.\d+)\.mlp\.fc2\.", r"\1.mlp_out_proj."),
    (r"^(blocks\.\d+)\.ls1\.gamma$", r"\1.ls.gamma"),
)
_BRANCHED_NAMES = tuple(
    (rf"^(blocks\.\d+)\.branch(\d)\.{part}\.", rf"\1.{theirs}.")
    for part, theirs in (
        *(("norm1", r"attns.\2.norm"), ("norm2", r"ffns.\2.norm")),
        *(("ls1", r"attns.\2.ls"), ("ls2", r"ffns.\2.ls")),
        *(("attn", r"attns.\2.attn"), ("mlp", r"ffns.\2.mlp")),
    )
)


def describe(config: ViTConfig, name: str, resnet: str = "") -> Described:
    """A model in the words of the class that fits it.

    Args:
      config: configuration of the model.
      name: nearest name of a model, such as "ViT-B/16".
      resnet: architecture of a hybrid; "" if the model is none.

    Raises:
      InputError: timm has no such model; the message names the option.
    """
    if config.position_bias != "none":
        table = config.position_bias.startswith("table")
        learnt = config.posemb != "none" or config.qkv_bias == "no_key"
        beit = table and (learnt or config.mlp != "gelu" or config.mlp_norm)
        return _beit(config) if beit else _relpos(config)
    pooling = config.map_heads or config.map_mlp_dim
    if config.rotary != "none" or config.qkv_bias == "no_key" or pooling:
        return _eva(config)
    return _vit(config, name, resnet)


def _vit(config: ViTConfig, model: str, resnet: str) -> Described:
    block, gated = config.block_kind, config.mlp == "swiglu"
    branched = config.block == "branched(count=2)"
    parallel = config.block == "parallel"
    head = config.head if config.head in ("gap", "map") else "token"
    posemb = "none" if config.posemb == "none" else "learned"
    has = _SHAPE | RESNET | dict.fromkeys((*_TOKENS, "pre_logits", "final_norm", "norm_pre"), ANY)
    has |= dict(head=head, posemb=posemb, out_bias=ANY, mlp_bias=config.out_bias, pool_prefix=ANY)
    has |= dict(distillation="head" if config.distillation == "head" else "none")
    has |= dict(patch_bias=not config.norm_pre, patch_norm=ANY if not resnet else False, gelu=ANY)
    has |= dict(norm="rms" if config.norm == "rms" else "layer")
    if block.branches == 1 or branched:
        has["block"] = ANY if config.block in _VIT_BLOCKS or branched else "sequential"
    if config.distillation == "head":
        has |= dict(final_norm=True, registers=0, posemb_class_slot=True, block="sequential")
        has |= dict(mlp="gelu")
    for name in ("attention_norm", "mlp_norm"):
        has[name] = False if parallel else ANY
    if parallel:
        has["out_bias"] = True
    if config.block == "post_norm":
        has["layer_scale"] = None
    if parallel or branched or config.head == "map" or config.block == "post_norm":
        has["mlp"] = "gelu"
    if resnet:
        has["block"] = "sequential"
    check_expressible("timm", config, has)
    name, epsilon, split = _vit_architecture(config, model, resnet)
    norms = dict(layer="layernorm", rms="rmsnorm")
    usual = _usual(name)
    kept_norm = usual.get("norm_layer", "layernorm").startswith(norms[config.norm])
    arguments = _common(config, (1 if split or not gated else 2) * config.mlp_dim)
    gelu = dict(erf="gelu", tanh="gelu_tanh", quick="quick_gelu")[config.gelu]
    arguments |= _tokens(config, "reg_tokens")
    arguments |= dict(
        class_token=config.has_class_token,
        qkv_bias=config.qkv_bias != "none",
        proj_bias=config.out_bias,
        final_norm=config.final_norm,
        pre_norm=config.norm_pre,
        pos_embed="none" if posemb == "none" else "learn",
        pool_include_prefix=config.pool_prefix,
        scale_attn_norm=config.attention_norm,
        scale_mlp_norm=config.mlp_norm,
        act_layer="silu" if gated else gelu,
        qk_norm=config.qk_norm,
        init_values=_layer_scale(config, usual),
    )
    if not kept_norm:
        arguments["norm_layer"] = norms[config.norm]
    if config.patch_norm != bool(usual.get("embed_norm_layer")):
        arguments["embed_norm_layer"] = norms[config.norm] if config.patch_norm else ""
    if config.head == "gap":
        arguments["fc_norm"] = config.pool_then_norm
    renames = _PARALLEL_NAMES if parallel else _BRANCHED_NAMES if branched else ()
    defaults = _DEFAULTS | dict(act_layer="gelu")
    return Described(
        name, _changed(arguments, usual, defaults, ("fc_norm",)), epsilon, renames, split
    )


_VIT_BLOCKS = {
    "post_norm": "vit_base_patch16_rpn_224",
    "parallel": "vit_base_patch16_xp_224",
    "branched(count=2)": "vit_base_patch16_18x2_224",
}
_SIZE_NAMES = dict(Ti="tiny", S="small", B="base", L="large", H="huge", g="giant", G="gigantic")
# Patch sizes of timm's architectures; another one goes into the first one's arguments.
_PATCHES = dict(Ti=(16,), S=(16, 8, 32), B=(16, 8, 32), L=(16, 14, 32), H=(14,), g=(14,), G=(14,))


def _vit_architecture(config: ViTConfig, model: str, resnet: str) -> tuple[str, float, bool]:
    """The nearest architecture, its epsilon, and whether its gated MLP has two tensors."""
    if resnet:
        return resnet, 1e-6, False
    if config.block in _VIT_BLOCKS:
        return _VIT_BLOCKS[config.block], 1e-6, False
    small = math.isclose(config.norm_eps, 1e-5) and config.distillation == "none"
    if config.mlp == "swiglu":
        if small and config.norm == "rms":
            return "aimv2_large_patch14_224", 1e-5, True
        return "vit_giant_patch14_dinov2", 1e-6, False
    if small and config.norm == "layer" and not config.patch_norm:
        return "vit_base_patch16_clip_224", 1e-5, False
    variant, patch = model.removeprefix("ViT-").split("/")
    size = _SIZE_NAMES.get(variant, "base")
    if config.distillation == "head":
        size = size if size in ("tiny", "small", "base") else "base"
        return f"deit_{size}_distilled_patch16_224", 1e-6, False
    patches = _PATCHES.get(variant, (16, 8, 32))
    name = f"vit_{size}_patch{patch if int(patch) in patches else patches[0]}_224"
    return name, 1e-6, False


def _eva(config: ViTConfig) -> Described:
    post_norm = config.block == "post_norm"
    gated = config.mlp == "swiglu"
    has = _SHAPE | dict.fromkeys((*_TOKENS, "final_norm", "norm_pre"), ANY)
    has |= dict(head=config.head if config.head in ("gap", "map") else "token")
    has |= dict(posemb="none" if config.posemb == "none" else "learned", map_heads=ANY)
    has |= dict(map_mlp_dim=ANY, patch_bias=not config.norm_pre, attention_norm=ANY, mlp_norm=ANY)
    has |= dict(gelu="erf" if not gated or config.head == "map" else ANY, rotary=ANY)
    has |= dict(block="post_norm" if post_norm else "sequential")
    has |= dict(pool_prefix=config.head == "map" and config.prefix_tokens > 0)
    if post_norm:
        has |= dict(layer_scale=None, qk_norm=False)
    check_expressible("timm", config, has)
    name, epsilon = "eva_giant_patch14_224", 1e-6
    if math.isclose(config.norm_eps, 1e-5):
        epsilon = 1e-5
        scaled = config.layer_scale is not None
        name = "vit_small_patch16_dinov3" if scaled else "vit_pe_core_base_patch16_224"
    usual = _usual(name)
    arguments = _common(config, config.mlp_dim) | _tokens(config, "num_reg_tokens")
    arguments |= dict(
        class_token=config.has_class_token,
        attn_type="rope" if config.qkv_bias == "all" else "eva",
        qkv_bias=config.qkv_bias != "none",
        swiglu_mlp=gated,
        scale_mlp=config.mlp_norm,
        scale_attn_inner=config.attention_norm,
        qk_norm=config.qk_norm,
        use_abs_pos_emb=config.posemb != "none",
        use_post_norm=post_norm,
        use_pre_transformer_norm=config.norm_pre,
        use_post_transformer_norm=config.final_norm and not config.pool_then_norm,
        use_fc_norm=config.pool_then_norm,
        init_values=config.layer_scale,
        **_rotary(config, usual),
    )
    if config.head == "map":
        ratio = _ratio(config.map_mlp_dim or config.mlp_dim, config.width)
        heads = config.map_heads or config.num_heads
        arguments |= dict(attn_pool_num_heads=heads, attn_pool_mlp_ratio=ratio)
    kept = ("use_post_transformer_norm", "use_fc_norm")
    changed = _changed(arguments, usual, _DEFAULTS, kept)
    return Described(name, changed, epsilon, _GAMMA, gated and config.mlp_norm)


def _rotary(config: ViTConfig, usual: Mapping[str, Any]) -> dict[str, Any]:
    """Eva's arguments of a rotary embedding; `usual` are those of the architecture."""
    kind = config.rotary_kind
    if config.rotary == "none":
        return dict(use_rot_pos_emb=False)
    given: dict[str, Any] = dict(use_rot_pos_emb=True, rope_grid_offset=0.0)
    if isinstance(kind, Indexed):
        # Without scaling, or scaled onto the grid itself where the architecture scales.
        reference = kind.reference or (config.grid if "ref_feat_shape" in usual else None)
        pair = (reference, reference) if isinstance(reference, int) else reference
        given |= dict(rope_type="cat", rope_grid_offset=kind.offset, rope_temperature=kind.base)
        given |= dict(ref_feat_shape=pair and list(pair), rope_rotate_half=kind.layout == "half")
        return given | dict(rope_grid_indexing="xy" if kind.order == "xy" else "ij")
    if isinstance(kind, Mixed) and kind.layout == "interleaved":
        given |= dict(rope_type="mixed", rope_temperature=kind.base, rope_rotate_half=False)
        return given | dict(rope_grid_indexing="xy" if kind.order == "xy" else "ij")
    if isinstance(kind, Centred):
        given |= dict(rope_type="dinov3", rope_temperature=kind.base, rope_grid_indexing="ij")
        given |= dict(rope_rescale_coords=kind.rescale) if kind.rescale != 1.0 else {}
        return given | dict(rope_rotate_half=kind.layout == "half")
    raise InputError(f"timm has no model with rotary={config.rotary!r}; write .npz instead")


def _beit(config: ViTConfig) -> Described:
    has = _SHAPE | dict(class_token=None if config.head == "token" else True, qk_norm=False)
    has |= dict(head="gap" if config.head == "gap" else "token", mlp_norm=ANY, position_bias=ANY)
    has |= dict(posemb="none" if config.posemb == "none" else "learned")
    has |= dict(gelu="erf" if config.mlp == "gelu" else ANY)
    has |= dict(qkv_bias="none" if config.qkv_bias == "none" else "no_key")
    if config.head == "token" and config.class_token:
        has["class_token"] = ANY
    check_expressible("timm", config, has)
    shared = config.position_bias_kind.shared
    arguments = _common(config, config.mlp_dim) | dict(
        qkv_bias=config.qkv_bias != "none",
        swiglu_mlp=config.mlp == "swiglu",
        scale_mlp=config.mlp_norm,
        use_abs_pos_emb=config.posemb != "none",
        use_rel_pos_bias=not shared,
        use_shared_rel_pos_bias=shared,
        use_fc_norm=config.pool_then_norm,
        init_values=config.layer_scale or 0.0,
    )
    name = "beit_base_patch16_224"
    usual = _usual(name)
    changed = _changed(arguments, usual, _DEFAULTS, ("use_fc_norm",))
    return Described(name, changed, 1e-6, (*_GAMMA, *_BEIT_NAMES), True)


def _relpos(config: ViTConfig) -> Described:
    post_norm = config.block == "post_norm"
    has = _SHAPE | dict(mlp="gelu", gelu="erf", posemb="none", position_bias=ANY)
    has |= dict(head="gap" if config.head == "gap" else "token")
    has |= dict(qkv_bias="none" if config.qkv_bias == "none" else "all")
    has |= dict(block="post_norm" if post_norm else "sequential")
    if post_norm:
        has["layer_scale"] = None
    check_expressible("timm", config, has)
    name = "vit_relpos_base_patch16_rpn_224" if post_norm else "vit_relpos_base_patch16_224"
    kind = config.position_bias_kind
    hidden = getattr(kind, "hidden", None)
    arguments = _common(config, config.mlp_dim) | dict(
        qkv_bias=config.qkv_bias != "none",
        qk_norm=config.qk_norm,
        class_token=config.has_class_token,
        fc_norm=config.pool_then_norm,
        rel_pos_type="mlp" if hidden else "bias",
        rel_pos_dim=hidden,
        shared_rel_pos=kind.shared,
        init_values=config.layer_scale or 0.0,
    )
    usual = _usual(name)
    changed = _changed(arguments, usual, _RELPOS_DEFAULTS)
    return Described(name, changed, 1e-6, ((r"^rel_pos\.", "shared_rel_pos."), _TABLE))


def _usual(name: str) -> dict[str, Any]:
    """The arguments of an architecture."""
    found = architecture(name)
    assert found is not None  # these names are in the tables
    return found[1]


def _common(config: ViTConfig, hidden: int) -> dict[str, Any]:
    """Arguments of every class; `hidden` is what the class takes for the MLP's width."""
    return dict(
        img_size=list(config.image_size),
        patch_size=side_length(config.patch_size),
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.num_heads,
        mlp_ratio=_ratio(hidden, config.width),
    )


def _tokens(config: ViTConfig, registers: str) -> dict[str, Any]:
    without = config.registers and not config.posemb_register_slots
    whole = without or not config.posemb_class_slot
    learnt = config.posemb == "learned" and config.prefix_tokens > 0
    return {registers: config.registers, "no_embed_class": bool(learnt and whole)}


def _layer_scale(config: ViTConfig, usual: Mapping[str, Any]) -> float | None:
    """`init_values`; 0 turns off what the architecture has."""
    if config.layer_scale is None and usual.get("init_values") and config.block != "post_norm":
        return 0.0
    return config.layer_scale


def _ratio(hidden: int, width: int) -> float:
    """A ratio of which timm, which rounds down, makes the hidden width."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def _changed(
    arguments: Mapping[str, Any],
    usual: Mapping[str, Any],
    defaults: Mapping[str, Any],
    kept: Sequence[str] = (),
) -> dict[str, Any]:
    """The arguments that an architecture does not have already, and those of every model."""
    result = {}
    for name, value in arguments.items():
        was = usual.get(name, defaults.get(name))
        same = value == was or (not value and not was and name != "init_values")
        if value is not None and (name in (*_ALWAYS, *kept) or not same):
            result[name] = value
    return result
