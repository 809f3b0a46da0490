"""Names of tensors in timm's files, and the changes that make them those of one table."""

import numpy as np

from vit_jax.weights.families import QKV
from vit_jax.weights.formats.rows import branched, dense, norm, torch_resnet
from vit_jax.weights.layout import Table

_BACKBONE = "patch_embed.backbone"
_UNIT = "stages.{s0}.blocks.{c0}"
WORDS = QKV | {"j": ("q", "v")}
# A sequential block without its position bias.
_BLOCK: Table = {
    **norm("blocks/norm1", "blocks.{l}.norm1"),
    **dense("blocks/attention/qkv", "blocks.{l}.attn.qkv", "(thk)d", "(thk)"),
    "blocks/attention/query_value/bias": ("blocks.{l}.attn.{j}_bias", "(hk)"),
    **norm("blocks/attention/query_norm", "blocks.{l}.attn.q_norm", "k"),
    **norm("blocks/attention/key_norm", "blocks.{l}.attn.k_norm", "k"),
    **norm("blocks/attention/norm", "blocks.{l}.attn.norm"),
    **dense("blocks/attention/out", "blocks.{l}.attn.proj", "d(hk)", "d"),
    "blocks/scale1": ("blocks.{l}.ls1.gamma", "d"),
    **norm("blocks/norm2", "blocks.{l}.norm2"),
    **dense("blocks/mlp/fc1", "blocks.{l}.mlp.fc1", "md", "m"),
    **norm("blocks/mlp/norm", "blocks.{l}.mlp.norm", "m"),
    **dense("blocks/mlp/fc2", "blocks.{l}.mlp.fc2", "dm", "d"),
    "blocks/scale2": ("blocks.{l}.ls2.gamma", "d"),
}
TIMM: Table = {
    **dense("embedding", "patch_embed.proj", "dipq", "d"),
    **norm("patch_norm", "patch_embed.norm"),
    "cls": ("cls_token", "11d"),
    "dist": ("dist_token", "11d"),
    "registers": ("reg_token", "1rd"),
    "posemb/embedding": ("pos_embed", "1nd"),
    **norm("norm_pre", "norm_pre"),
    **_BLOCK,
    **dense("blocks/mlp/gated", "blocks.{l}.mlp.fc1", "(gm)d", "(gm)"),
    **branched(_BLOCK, "blocks.{l}.", "blocks.{l}.branch{i}."),
    "blocks/rotary/frequencies": ("rope.freqs", "clhs"),
    "position_bias/table": ("rel_pos.table", "wh"),
    **dense("position_bias/fc1", "rel_pos.mlp.fc1", "vc", "v"),
    **dense("position_bias/fc2", "rel_pos.mlp.fc2", "hv", "h"),
    "blocks/position_bias/table": ("blocks.{l}.attn.rel_pos.table", "wh"),
    **dense("blocks/position_bias/fc1", "blocks.{l}.attn.rel_pos.mlp.fc1", "vc", "v"),
    **dense("blocks/position_bias/fc2", "blocks.{l}.attn.rel_pos.mlp.fc2", "hv", "h"),
    **norm("norm", "norm"),
    "map_head/probe": ("attn_pool.latent", "11d"),
    **dense("map_head/query", "attn_pool.q", "(HK)d", "(HK)"),
    **dense("map_head/key_value", "attn_pool.kv", "(uHK)d", "(uHK)"),
    **dense("map_head/out", "attn_pool.proj", "d(HK)", "d"),
    **norm("map_head/norm", "attn_pool.norm"),
    **dense("map_head/mlp/fc1", "attn_pool.mlp.fc1", "Md", "M"),
    **dense("map_head/mlp/fc2", "attn_pool.mlp.fc2", "dM", "d"),
    **dense("pre_logits", "pre_logits.fc", "ef", "e"),
    **dense("head", "head", "oz", "o"),
    **dense("head_dist", "head_dist", "od", "o"),
    **torch_resnet(
        "stem", f"{_BACKBONE}.stem.conv", f"{_BACKBONE}.stem.norm", f"{_BACKBONE}.{_UNIT}"
    ),
}
TIMM_BIT: Table = {
    **torch_resnet("resnet", "stem.conv", "stem.norm", _UNIT),
    **norm("resnet/norm", "norm", "y"),
    **dense("head", "head.fc", "oz11", "o"),
}
RENAMES = (
    (r"^register_tokens$", "reg_token"),  # DINOv2's own files
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # DINOv2's training, in chunks
    (r"\.gamma_(\d)$", r".ls\1.gamma"),  # EVA, BEiT, and DeiT-III's own files
    (r"\.mlp\.w12\.", ".mlp.fc1."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
    (r"^fc_norm\.", "norm."),
    (r"^patch_embed\.backbone\.(conv|norm)\.", r"patch_embed.backbone.stem.\1."),
    # ParallelScalingBlock
    (r"^(blocks\.\d+)\.in_norm\.", r"\1.norm1."),
    (r"^(blocks\.\d+)\.([qk]_norm)\.", r"\1.attn.\2."),
    (r"^(blocks\.\d+)\.attn_out_proj\.", r"\1.attn.proj."),
    (r"^(blocks\.\d+)\.mlp_out_proj\.", r"\1.mlp.fc2."),
    (r"^(blocks\.\d+)\.mlp_bias$", r"\1.mlp.fc1.bias"),
    (r"^(blocks\.\d+)\.ls\.gamma$", r"\1.ls1.gamma"),
    # ParallelThingsBlock
    (r"^(blocks\.\d+)\.attns\.(\d+)\.norm\.", r"\1.branch\2.norm1."),
    (r"^(blocks\.\d+)\.ffns\.(\d+)\.norm\.", r"\1.branch\2.norm2."),
    (r"^(blocks\.\d+)\.attns\.(\d+)\.ls\.", r"\1.branch\2.ls1."),
    (r"^(blocks\.\d+)\.ffns\.(\d+)\.ls\.", r"\1.branch\2.ls2."),
    (r"^(blocks\.\d+)\.(?:attns|ffns)\.(\d+)\.(attn|mlp)\.", r"\1.branch\2.\3."),
    # BEiT, and vision_transformer_relpos.py
    (r"^(?:rel_pos_bias|shared_rel_pos)\.", "rel_pos."),
    (r"\.attn\.relative_position_bias_table$", ".attn.rel_pos.table"),
    (r"(^|\.)rel_pos\.relative_position_bias_table$", r"\1rel_pos.table"),
)


def regroup(tensors: dict[str, np.ndarray], original: dict[str, str]) -> None:
    """Splits `in_proj`, and joins queries, keys and values, or gate and value; see `Family`."""
    for name in sorted(tensors):
        block, _, rest = name.rpartition(".attn." if ".attn." in name else ".mlp.")
        if name.endswith(".in_proj.weight"):
            _split_in_proj(name.removesuffix("in_proj.weight"), tensors, original)
        elif rest.startswith("q_proj."):
            _join_projections(f"{block}.attn.", rest.removeprefix("q_proj."), tensors, original)
        elif rest.startswith("fc1_g."):
            end = rest.removeprefix("fc1_g.")
            parts = [f"{block}.mlp.fc1_{part}.{end}" for part in "gx"]
            _join(parts, f"{block}.mlp.fc1.{end}", tensors, original)


def _split_in_proj(block: str, tensors: dict[str, np.ndarray], original: dict[str, str]) -> None:
    """The first rows are the MLP's, the rest queries, keys and values."""
    rows, width = tensors[f"{block}in_proj.weight"].shape
    for end in ("weight", "bias"):
        whole = f"{block}in_proj.{end}"
        if whole not in tensors or rows <= 3 * width:
            continue
        array, source = tensors.pop(whole), original.pop(whole)
        parts = (("mlp.fc1", array[: rows - 3 * width]), ("attn.qkv", array[rows - 3 * width :]))
        for part, values in parts:
            tensors[f"{block}{part}.{end}"], original[f"{block}{part}.{end}"] = values, source


def _join_projections(
    attention: str, end: str, tensors: dict[str, np.ndarray], original: dict[str, str]
) -> None:
    """Joins those of queries, keys and values; a key may have no bias."""
    if end == "bias" and f"{attention}k_proj.bias" not in tensors:
        for part in "qv":
            _join([f"{attention}{part}_proj.bias"], f"{attention}{part}_bias", tensors, original)
        return
    parts = [f"{attention}{part}_proj.{end}" for part in "qkv"]
    _join(parts, f"{attention}qkv.{end}", tensors, original)


def _join(
    parts: list[str], whole: str, tensors: dict[str, np.ndarray], original: dict[str, str]
) -> None:
    """Replaces tensors of one shape by one; leaves them where one is missing or differs."""
    if (
        whole in tensors
        or len({tensors[part].shape if part in tensors else () for part in parts}) > 1
    ):
        return
    if parts[0] in tensors:
        tensors[whole] = np.concatenate([tensors.pop(part) for part in parts])
        original[whole] = ", ".join(original.pop(part) for part in parts)
