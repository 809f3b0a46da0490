"""Names of tensors in open_clip's files, which other programs share."""

from vit_jax.weights.formats.rows import dense, norm
from vit_jax.weights.layout import Table

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
# Tensors of a text tower, of what compares texts with images, of CoCa's decoder, and OpenAI's
# record of sizes.
OTHER = (
    r"transformer\..*|token_embedding\..*|positional_embedding|text_projection(\..*)?|ln_final\..*"
    r"|cls_emb|text\..*|text_decoder\..*|logit_(scale|bias)"
    r"|input_resolution|context_length|vocab_size|attn_mask"
)


def tower(prefix: str) -> Table:
    """Rows of the image tower, whose names begin with `prefix`."""
    layer = f"{prefix}transformer.resblocks.{{l}}"
    return {
        "embedding/kernel": (f"{prefix}conv1.weight", "dipq"),
        "cls": (f"{prefix}class_embedding", "d"),
        "posemb/embedding": (f"{prefix}positional_embedding", "nd"),
        **norm("norm_pre", f"{prefix}ln_pre"),
        **norm("blocks/norm1", f"{layer}.ln_1"),
        "blocks/attention/qkv/kernel": (f"{layer}.attn.in_proj_weight", "(thk)d"),
        "blocks/attention/qkv/bias": (f"{layer}.attn.in_proj_bias", "(thk)"),
        **dense("blocks/attention/out", f"{layer}.attn.out_proj", "d(hk)", "d"),
        "blocks/scale1": (f"{layer}.ls_1.gamma", "d"),
        **norm("blocks/norm2", f"{layer}.ln_2"),
        **dense("blocks/mlp/fc1", f"{layer}.mlp.c_fc", "md", "m"),
        **dense("blocks/mlp/fc2", f"{layer}.mlp.c_proj", "dm", "d"),
        "blocks/scale2": (f"{layer}.ls_2.gamma", "d"),
        **norm("norm", f"{prefix}ln_post"),
        "projection/kernel": (f"{prefix}proj", "fe"),
    }
