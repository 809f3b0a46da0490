"""The published formats as tables; see `layout`."""

from vit_jax.weights.layout import Table


def _dense(ours: str, theirs: str, kernel: str, bias: str, *, torch: bool = True) -> Table:
    weight = f"{theirs}.weight" if torch else f"{theirs}/kernel"
    return {
        f"{ours}/kernel": (weight, kernel),
        f"{ours}/bias": (f"{theirs}.bias" if torch else f"{theirs}/bias", bias),
    }


def _norm(ours: str, theirs: str, axis: str = "d", *, torch: bool = True) -> Table:
    scale, bias = (".weight", ".bias") if torch else ("/scale", "/bias")
    return {
        f"{ours}/scale": (theirs + scale, axis),
        f"{ours}/bias": (theirs + bias, axis),
    }


def _google_dense(ours: str, theirs: str, kernel: str, bias: str) -> Table:
    return _dense(ours, theirs, kernel, bias, torch=False)


def _google_norm(ours: str, theirs: str, axis: str = "d") -> Table:
    return _norm(ours, theirs, axis, torch=False)


def _torch_resnet(ours: str, root: str, root_norm: str, unit: str) -> Table:
    """`unit` is a template of a unit's name, with {s0} and {c0}."""
    block = f"{ours}/block{{s}}/unit{{c}}"
    table = {f"{ours}/conv_root/kernel": (f"{root}.weight", "yxab")}
    table |= _norm(f"{ours}/gn_root", root_norm, "y")
    for i in (1, 2, 3):
        table[f"{block}/conv{i}/kernel"] = (f"{unit}.conv{i}.weight", "yxab")
        table |= _norm(f"{block}/gn{i}", f"{unit}.norm{i}", "y")
    table[f"{block}/conv_proj/kernel"] = (f"{unit}.downsample.conv.weight", "yxab")
    return table | _norm(f"{block}/gn_proj", f"{unit}.downsample.norm", "y")


def _google_resnet(ours: str) -> Table:
    block, unit = f"{ours}/block{{s}}/unit{{c}}", "block{s}/unit{c}"
    table = {f"{ours}/conv_root/kernel": ("conv_root/kernel", "abxy")}
    table |= _google_norm(f"{ours}/gn_root", "gn_root", "y")
    for name in ("1", "2", "3", "_proj"):
        table[f"{block}/conv{name}/kernel"] = (f"{unit}/conv{name}/kernel", "abxy")
        table |= _google_norm(f"{block}/gn{name}", f"{unit}/gn{name}", "y")
    return table


# vision_transformer's names; big_vision's are brought to them (see google.py). Rows for what
# Google's code does not have (registers, LayerScale, ...) let any ViT travel as .npz.
_BLOCK = "Transformer/encoderblock_{l}"
_ATTENTION = f"{_BLOCK}/MultiHeadDotProductAttention_1"
_MAP = "MAPHead_0"
GOOGLE: Table = {
    **_google_dense("embedding", "embedding", "pqid", "d"),
    "cls": ("cls", "11d"),
    "dist": ("dist", "11d"),
    "registers": ("registers", "1rd"),
    "posemb/embedding": ("Transformer/posembed_input/pos_embedding", "1nd"),
    **_google_norm("blocks/norm1", f"{_BLOCK}/LayerNorm_0"),
    **_google_dense("blocks/attention/qkv", f"{_ATTENTION}/{{t}}", "dhk", "hk"),
    **_google_norm("blocks/attention/query_norm", f"{_ATTENTION}/query_ln", "k"),
    **_google_norm("blocks/attention/key_norm", f"{_ATTENTION}/key_ln", "k"),
    **_google_dense("blocks/attention/out", f"{_ATTENTION}/out", "hkd", "d"),
    "blocks/scale1": (f"{_BLOCK}/LayerScale_1/scale", "d"),
    **_google_norm("blocks/norm2", f"{_BLOCK}/LayerNorm_2"),
    **_google_dense("blocks/mlp/fc1", f"{_BLOCK}/MlpBlock_3/Dense_0", "dm", "m"),
    **_google_dense("blocks/mlp/gated", f"{_BLOCK}/MlpBlock_3/Gated_0", "dgm", "gm"),
    **_google_dense("blocks/mlp/fc2", f"{_BLOCK}/MlpBlock_3/Dense_1", "md", "d"),
    "blocks/scale2": (f"{_BLOCK}/LayerScale_3/scale", "d"),
    **_google_norm("norm", "Transformer/encoder_norm"),
    "map_head/probe": (f"{_MAP}/probe", "11d"),
    **_google_dense("map_head/query", f"{_MAP}/MultiHeadDotProductAttention_0/query", "dhk", "hk"),
    **_google_dense(
        "map_head/key_value", f"{_MAP}/MultiHeadDotProductAttention_0/{{u}}", "dhk", "hk"
    ),
    **_google_dense("map_head/out", f"{_MAP}/MultiHeadDotProductAttention_0/out", "hkd", "d"),
    **_google_norm("map_head/norm", f"{_MAP}/LayerNorm_0"),
    **_google_dense("map_head/mlp/fc1", f"{_MAP}/MlpBlock_0/Dense_0", "dm", "m"),
    **_google_dense("map_head/mlp/fc2", f"{_MAP}/MlpBlock_0/Dense_1", "md", "d"),
    **_google_dense("pre_logits", "pre_logits", "fe", "e"),
    **_google_dense("head", "head", "zo", "o"),
    **_google_dense("head_dist", "head_dist", "do", "o"),
    **_google_resnet("stem"),
    **_google_resnet("resnet"),
}

# The published BiT files: pre-activation, dumped from TensorFlow.
_UNIT = "resnet/block{s}/unit{cc}"
GOOGLE_BIT: Table = {
    "resnet/conv_root/kernel": ("resnet/root_block/standardized_conv2d/kernel", "abxy"),
    "resnet/norm/scale": ("resnet/group_norm/gamma", "y"),
    "resnet/norm/bias": ("resnet/group_norm/beta", "y"),
    "head/kernel": ("resnet/head/conv2d/kernel", "11zo"),
    "head/bias": ("resnet/head/conv2d/bias", "o"),
    "resnet/block{s}/unit{c}/conv_proj/kernel": (
        f"{_UNIT}/a/proj/standardized_conv2d/kernel",
        "abxy",
    ),
}
for _i, _part in enumerate("abc", 1):
    _ours, _theirs = f"resnet/block{{s}}/unit{{c}}/gn{_i}", f"{_UNIT}/{_part}/group_norm"
    GOOGLE_BIT[f"{_ours}/scale"] = (f"{_theirs}/gamma", "y")
    GOOGLE_BIT[f"{_ours}/bias"] = (f"{_theirs}/beta", "y")
    GOOGLE_BIT[f"resnet/block{{s}}/unit{{c}}/conv{_i}/kernel"] = (
        f"{_UNIT}/{_part}/standardized_conv2d/kernel",
        "abxy",
    )

_TIMM_UNIT = "stages.{s0}.blocks.{c0}"
_BACKBONE = "patch_embed.backbone"
TIMM: Table = {
    **_dense("embedding", "patch_embed.proj", "dipq", "d"),
    "cls": ("cls_token", "11d"),
    "dist": ("dist_token", "11d"),
    "registers": ("reg_token", "1rd"),
    "posemb/embedding": ("pos_embed", "1nd"),
    **_norm("blocks/norm1", "blocks.{l}.norm1"),
    **_dense("blocks/attention/qkv", "blocks.{l}.attn.qkv", "(thk)d", "(thk)"),
    **_norm("blocks/attention/query_norm", "blocks.{l}.attn.q_norm", "k"),
    **_norm("blocks/attention/key_norm", "blocks.{l}.attn.k_norm", "k"),
    **_dense("blocks/attention/out", "blocks.{l}.attn.proj", "d(hk)", "d"),
    "blocks/scale1": ("blocks.{l}.ls1.gamma", "d"),
    **_norm("blocks/norm2", "blocks.{l}.norm2"),
    **_dense("blocks/mlp/fc1", "blocks.{l}.mlp.fc1", "md", "m"),
    **_dense("blocks/mlp/gated", "blocks.{l}.mlp.fc1", "(gm)d", "(gm)"),
    **_dense("blocks/mlp/fc2", "blocks.{l}.mlp.fc2", "dm", "d"),
    "blocks/scale2": ("blocks.{l}.ls2.gamma", "d"),
    **_norm("norm", "norm"),
    "map_head/probe": ("attn_pool.latent", "11d"),
    **_dense("map_head/query", "attn_pool.q", "(hk)d", "(hk)"),
    **_dense("map_head/key_value", "attn_pool.kv", "(uhk)d", "(uhk)"),
    **_dense("map_head/out", "attn_pool.proj", "d(hk)", "d"),
    **_norm("map_head/norm", "attn_pool.norm"),
    **_dense("map_head/mlp/fc1", "attn_pool.mlp.fc1", "md", "m"),
    **_dense("map_head/mlp/fc2", "attn_pool.mlp.fc2", "dm", "d"),
    **_dense("pre_logits", "pre_logits.fc", "ef", "e"),
    **_dense("head", "head", "oz", "o"),
    **_dense("head_dist", "head_dist", "od", "o"),
    **_torch_resnet(
        "stem", f"{_BACKBONE}.stem.conv", f"{_BACKBONE}.stem.norm", f"{_BACKBONE}.{_TIMM_UNIT}"
    ),
}
TIMM_BIT: Table = {
    **_torch_resnet("resnet", "stem.conv", "stem.norm", _TIMM_UNIT),
    **_norm("resnet/norm", "norm", "y"),
    **_dense("head", "head.fc", "oz11", "o"),
}

_LAYER = "encoder.layer.{l}"
_HUGGINGFACE: Table = {
    **_dense("embedding", "embeddings.patch_embeddings.projection", "dipq", "d"),
    "cls": ("embeddings.cls_token", "11d"),
    "dist": ("embeddings.distillation_token", "11d"),
    "posemb/embedding": ("embeddings.position_embeddings", "1nd"),
    **_dense("blocks/attention/qkv", f"{_LAYER}.attention.attention.{{t}}", "(hk)d", "(hk)"),
    **_dense("blocks/attention/out", f"{_LAYER}.attention.output.dense", "d(hk)", "d"),
    **_norm("norm", "layernorm"),
    **_dense("head", "classifier", "oz", "o"),
}
_HF_BIT_UNIT = "encoder.stages.{s0}.layers.{c0}"
_HF_BACKBONE = "embeddings.patch_embeddings.backbone.bit"
HUGGINGFACE: Table = {
    **_HUGGINGFACE,
    **_norm("blocks/norm1", f"{_LAYER}.layernorm_before"),
    **_norm("blocks/norm2", f"{_LAYER}.layernorm_after"),
    **_dense("blocks/mlp/fc1", f"{_LAYER}.intermediate.dense", "md", "m"),
    **_dense("blocks/mlp/fc2", f"{_LAYER}.output.dense", "dm", "d"),
    **_dense("pre_logits", "pooler.dense", "ef", "e"),
    **_dense("head_dist", "distillation_classifier", "od", "o"),
    **_torch_resnet(
        "stem",
        f"{_HF_BACKBONE}.embedder.convolution",
        f"{_HF_BACKBONE}.embedder.norm",
        f"{_HF_BACKBONE}.{_HF_BIT_UNIT}",
    ),
}
DINOV2: Table = {
    **_HUGGINGFACE,
    "registers": ("embeddings.register_tokens", "1rd"),
    **_norm("blocks/norm1", f"{_LAYER}.norm1"),
    **_norm("blocks/norm2", f"{_LAYER}.norm2"),
    **_dense("blocks/mlp/fc1", f"{_LAYER}.mlp.fc1", "md", "m"),
    **_dense("blocks/mlp/gated", f"{_LAYER}.mlp.fc1", "(gm)d", "(gm)"),
    **_dense("blocks/mlp/fc2", f"{_LAYER}.mlp.fc2", "dm", "d"),
    "blocks/scale1": (f"{_LAYER}.layer_scale1.lambda1", "d"),
    "blocks/scale2": (f"{_LAYER}.layer_scale2.lambda1", "d"),
}
HUGGINGFACE_BIT: Table = {
    **_torch_resnet("resnet", "embedder.convolution", "embedder.norm", _HF_BIT_UNIT),
    **_norm("resnet/norm", "norm", "y"),
    **_dense("head", "classifier.1", "oz", "o"),
}
