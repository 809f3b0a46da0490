"""timm's files, and Meta's own files of DeiT and DINOv2, which have the same names."""

from vit_jax.weights.families import FAMILIES, Family
from vit_jax.weights.formats.timm import naflex, write
from vit_jax.weights.formats.timm.config import hints, recipe
from vit_jax.weights.formats.timm.names import RENAMES, TIMM, TIMM_BIT, WORDS, regroup

__all__ = ["write"]

FAMILIES.add(
    "timm ViT",
    Family(
        "patch_embed.proj.weight",
        TIMM,
        hints,
        recipe,
        ("", "model.", "backbone."),
        RENAMES,
        aside="mask_token",
        # The projections of DINO, iBOT and DINOv2.
        unused=r"head\.(mlp|last_layer)\..+|(dino|ibot)_head\..+",
        regroup=regroup,
        words=WORDS,
    ),
)
# Many networks have the first of the two.
_BIT = ("stem.conv.weight", "stages.0.blocks.0.conv1.weight")
FAMILIES.add("timm BiT", Family(_BIT, TIMM_BIT, hints, recipe))
FAMILIES.add(
    "timm NaFlexVit",
    Family(
        "patch_embed.proj.weight",
        TIMM,
        naflex.hints,
        naflex.recipe,
        renames=naflex.RENAMES,
        unpack=naflex.unpack,
        regroup=regroup,
        words=WORDS,
    ),
)
