"""Writes options.json.xz, the logits of timm's models; needs timm 1.0.31.

python tests/weights/timm/write_options.py
"""

import json
import lzma
from pathlib import Path

from reference import create, logits, pair

TINY = dict(img_size=16, patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=5)
OTHER_SIZE = [32, 16]
RATES = ("drop_rate", "pos_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate")
# Arguments of vit_tiny_patch16_224, by the name of a case.
PLAIN = {
    "plain": {},
    "heads": dict(num_heads=2),
    "avg": dict(global_pool="avg"),
    "map": dict(global_pool="map"),
    "none": dict(global_pool=""),
    "avgmax": dict(global_pool="avgmax"),
    "max": dict(global_pool="max"),
    "prr": dict(global_pool="prr"),
    "avg_fc": dict(global_pool="avg", fc_norm=False),
    "token_fc": dict(fc_norm=True),
    "map_fc": dict(global_pool="map", fc_norm=True),
    "avg_prefix": dict(global_pool="avg", pool_include_prefix=True),
    "map_prefix": dict(global_pool="map", pool_include_prefix=True),
    "avg_prefix_nofc": dict(global_pool="avg", fc_norm=False, pool_include_prefix=True),
    "token_prefix": dict(pool_include_prefix=True),
    "noprefix": dict(global_pool="avg", class_token=False, pool_include_prefix=True),
    "notoken": dict(global_pool="avg", class_token=False),
    "qkv_bias": dict(qkv_bias=False),
    "qk_norm": dict(qk_norm=True),
    "scale_attn": dict(scale_attn_norm=True),
    "scale_mlp": dict(scale_mlp_norm=True),
    "scale_rms": dict(scale_attn_norm=True, scale_mlp_norm=True, norm_layer="rmsnorm"),
    "proj_bias": dict(proj_bias=False),
    "init_values": dict(init_values=0.1),
    "pos_none": dict(pos_embed="none"),
    "pos_empty": dict(pos_embed=""),
    "no_embed_class": dict(no_embed_class=True),
    "reg": dict(reg_tokens=8),
    "reg_no": dict(reg_tokens=8, no_embed_class=True),
    "reg3": dict(reg_tokens=3),
    "pre_norm": dict(pre_norm=True),
    "pre_norm_embed": dict(pre_norm=True, embed_norm_layer="rmsnorm", norm_layer="rmsnormfp32"),
    "final_norm": dict(final_norm=False),
    "final_norm_avg": dict(final_norm=False, global_pool="avg"),
    "dyn": dict(dynamic_img_size=True),
    "pad": dict(dynamic_img_pad=True),
    "drop": dict.fromkeys((*RATES, "patch_drop_rate"), 0.1),
    "init": dict(weight_init="jax", fix_init=True),
    "chans": dict(in_chans=1),
    "chans5": dict(in_chans=5),
    "size": dict(img_size=[16, 24]),
    "patch": dict(patch_size=[4, 8]),
    "ratio": dict(mlp_ratio=2.5),
    "classes": dict(num_classes=3),
    "headless": dict(num_classes=0),
    **{
        f"act_{name}": dict(act_layer=name)
        for name in ("gelu_tanh", "quick_gelu", "relu", "silu", "mish", "gelu")
    },
    **{
        f"norm_{name}": dict(norm_layer=name)
        for name in ("layernorm", "layernormfp32", "rmsnorm", "simplenorm")
    },
    "embed_norm": dict(embed_norm_layer="layernorm"),
    "embed_other": dict(embed_norm_layer="rmsnorm"),
    "attn": dict(attn_layer="diff"),
}
# Architectures with nothing but their sizes changed.
ARCHITECTURES = """
vit_base_patch32_siglip_256 vit_base_patch32_siglip_gap_256 vit_base_patch16_siglip_224
vit_so400m_patch14_siglip_224 vit_base_patch16_clip_224 vit_base_patch16_clip_quickgelu_224
test_vit test_vit2 test_vit3 test_vit4 vit_giant_patch14_dinov2 vit_base_patch14_reg4_dinov2
vit_medium_patch16_gap_240 vit_base_patch16_plus_240 deit_tiny_distilled_patch16_224
deit3_small_patch16_224 flexivit_small vit_base_patch16_xp_224 vit_pwee_patch16_reg1_gap_256
vit_dwee_patch16_reg1_gap_256 vit_dpwee_patch16_reg1_gap_256 vit_base_patch16_18x2_224
vit_base_patch16_rpn_224 aimv2_large_patch14_224 beit3_base_patch16_224 vit_base_patch16_radio_v3
vit_so150m2_patch16_reg1_gap_256 vit_so150m_patch16_reg4_map_256 eva_giant_patch14_224
eva_giant_patch14_clip_224 eva02_tiny_patch14_224 eva02_base_patch14_224
eva02_base_patch16_clip_224 eva02_enormous_patch14_clip_224 vit_base_patch16_rope_224
vit_base_patch16_rope_ape_224 vit_large_patch16_rope_224 vit_small_patch16_rope_mixed_224
vit_small_patch16_rope_mixed_ape_224 vit_medium_patch16_rope_reg1_gap_256
vit_mediumd_patch16_rope_reg1_gap_256 vit_small_patch16_dinov3 vit_small_patch16_dinov3_qkvb
vit_small_plus_patch16_dinov3 vit_7b_patch16_dinov3 vit_base_patch16_lingbot
vit_pe_core_base_patch16_224 vit_pe_core_gigantic_patch14_448 vit_pe_lang_large_patch14_448
vit_pe_lang_gigantic_patch14_448 vit_pe_spatial_small_patch16_512
beit_base_patch16_224 beitv2_base_patch16_224 vit_relpos_small_patch16_224
vit_relpos_base_patch16_plus_240 vit_relpos_medium_patch16_cls_224
vit_relpos_base_patch16_clsgap_224 vit_srelpos_small_patch16_224 vit_relpos_base_patch16_rpn_224
"""
ROPE = dict(use_rot_pos_emb=True)
DINO = dict(ROPE, rope_type="dinov3", rope_temperature=100.0)
# Case -> architecture and arguments.
CHANGED = {
    "parallel_bias": ("vit_base_patch16_xp_224", dict(qkv_bias=True, init_values=0.1)),
    "parallel_plain": ("vit_base_patch16_xp_224", dict(qk_norm=False, norm_layer="layernorm")),
    "parallel_no_proj": ("vit_base_patch16_xp_224", dict(proj_bias=False)),
    "branched_plain": (
        "vit_base_patch16_18x2_224",
        dict(init_values=0, qk_norm=True, scale_mlp_norm=True, qkv_bias=False, proj_bias=False),
    ),
    "post_norm_qk": ("vit_base_patch16_rpn_224", dict(qk_norm=True, scale_mlp_norm=True)),
    "gated_norm": ("vit_giant_patch14_dinov2", dict(scale_mlp_norm=True, proj_bias=False)),
    "split_norm": ("aimv2_large_patch14_224", dict(scale_mlp_norm=True, embed_norm_layer="")),
    "distilled_pre": ("deit_tiny_distilled_patch16_224", dict(pre_norm=True, qkv_bias=False)),
    "distilled_fc": ("deit_tiny_distilled_patch16_224", dict(fc_norm=True)),
    "eva_token": ("eva_giant_patch14_224", dict(global_pool="token", use_fc_norm=True)),
    "eva_map": ("eva_giant_patch14_224", dict(global_pool="map", attn_pool_num_heads=2)),
    "eva_map_ratio": (
        "eva_giant_patch14_224",
        dict(global_pool="map", num_reg_tokens=2, attn_pool_mlp_ratio=2.0),
    ),
    "eva_max": ("eva_giant_patch14_224", dict(global_pool="max")),
    "eva_two_norms": ("eva_giant_patch14_224", dict(use_post_transformer_norm=True)),
    "eva_no_qkv": ("eva_giant_patch14_224", dict(qkv_bias=False, qk_norm=True)),
    "eva_unfused": ("eva_giant_patch14_224", dict(qkv_fused=False)),
    "eva_rope_unfused": ("eva_giant_patch14_224", dict(qkv_fused=False, attn_type="rope")),
    "eva_groups": (
        "eva_giant_patch14_224",
        dict(qkv_fused=False, attn_type="rope", num_kv_heads=2),
    ),
    "eva_sapiens": ("vit_base_patch16_sapiens2", dict(num_kv_heads=4)),
    "eva_attention_scale": (
        "eva_giant_patch14_224",
        dict(init_values=0.1, attn_only_layer_scale=True),
    ),
    "eva_gated": ("eva_giant_patch14_224", dict(swiglu_mlp=True, mlp_ratio=2.1)),
    "eva_align": ("eva_giant_patch14_224", dict(swiglu_mlp=True, swiglu_align_to=64)),
    "eva_norms": ("eva_giant_patch14_224", dict(scale_attn_inner=True, scale_mlp=True)),
    "eva_post_gated": (
        "eva_giant_patch14_224",
        dict(use_post_norm=True, swiglu_mlp=True, swiglu_align_to=64, scale_attn_inner=True),
    ),
    "eva_registers": (
        "eva_giant_patch14_224",
        dict(num_reg_tokens=3, no_embed_class=True, init_values=0.1),
    ),
    "eva_register_positions": ("eva_giant_patch14_224", dict(num_reg_tokens=3)),
    "eva_rope_offset": (
        "eva_giant_patch14_224",
        dict(ROPE, rope_grid_offset=0.5, ref_feat_shape=[3, 5], rope_grid_indexing="xy"),
    ),
    "eva_rope_half": ("eva_giant_patch14_224", dict(ROPE, rope_rotate_half=True)),
    "eva_rope_reference": (
        "eva_giant_patch14_224",
        dict(ROPE, ref_feat_shape=7, rope_temperature=50.0),
    ),
    "eva_rope_training": (
        "eva_giant_patch14_224",
        dict(ROPE, rope_shift_coords=0.1, rope_jitter_coords=1.2, patch_drop_rate=0.1),
    ),
    "eva_mixed_rows": ("eva_giant_patch14_224", dict(ROPE, rope_type="mixed")),
    "eva_mrope": ("eva_giant_patch14_224", dict(ROPE, rope_type="mrope", patch_size=8)),
    "eva_centred": ("eva_giant_patch14_224", dict(DINO, rope_rescale_coords=2.0)),
    "eva_centred_xy": ("eva_giant_patch14_224", dict(DINO, rope_grid_indexing="xy")),
    "eva_centred_offset": ("eva_giant_patch14_224", dict(DINO, rope_grid_offset=0.5)),
    "beit_shared": (
        "beit_base_patch16_224",
        dict(use_rel_pos_bias=False, use_shared_rel_pos_bias=True, use_abs_pos_emb=True),
    ),
    "beit_both": ("beit_base_patch16_224", dict(use_shared_rel_pos_bias=True)),
    "beit_gated": (
        "beit_base_patch16_224",
        dict(swiglu_mlp=True, scale_mlp=True, qkv_bias=False, init_values=0.0),
    ),
    "beit_token": ("beit_base_patch16_224", dict(global_pool="token")),
    "beit_avg_norm": ("beit_base_patch16_224", dict(use_fc_norm=False)),
    "relpos_table": ("vit_relpos_small_patch16_224", dict(rel_pos_type="bias", qk_norm=True)),
    "relpos_table_cls": (
        "vit_relpos_medium_patch16_cls_224",
        dict(rel_pos_type="bias", shared_rel_pos=True, init_values=0.0),
    ),
    "relpos_swin": ("vit_relpos_small_patch16_224", dict(rel_pos_type="mlp-swin")),
    "relpos_shared_post": (
        "vit_relpos_base_patch16_rpn_224",
        dict(shared_rel_pos=True, rel_pos_dim=16, qkv_bias=True),
    ),
}


def cases():
    plain = {name: ("vit_tiny_patch16_224", dict(TINY, **own)) for name, own in PLAIN.items()}
    named = {name: (name, {}) for name in ARCHITECTURES.split()}
    sizes = dict(TINY, img_size=[16, 24])
    return plain | {name: (arch, sizes | own) for name, (arch, own) in (named | CHANGED).items()}


def described(architecture, arguments):
    model, shapes = create(architecture, arguments)
    case = dict(architecture=architecture, model_args=arguments, shapes=shapes)
    if arguments.get("global_pool") == "":
        return dict(case, logits=None)
    if arguments.get("in_chans", 3) != 3:
        return dict(case, logits=None)
    case["logits"] = rounded(logits(model, pair(arguments["img_size"])))
    tables = any("relative_position_bias_table" in name for name in shapes)
    rotary = getattr(model, "rope", None) is not None
    if (rotary or type(model).__name__ == "VisionTransformerRelPos") and not tables:
        model.set_input_size(tuple(OTHER_SIZE))
        case["other"] = rounded(logits(model, OTHER_SIZE))
    return case


def rounded(array):
    return [[float(f"{x:.6g}") for x in row[:8]] for row in array]


def main():
    written = {name: described(*case) for name, case in cases().items()}
    document = dict(other_size=OTHER_SIZE, cases=written)
    text = json.dumps(document, separators=(",", ":")).encode()
    path = Path(__file__).with_name("options.json.xz")
    path.write_bytes(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    main()
