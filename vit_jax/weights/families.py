"""The families of published files: how each is recognised and brought to its table's names."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from vit_jax.errors import InputError
from vit_jax.trees import name_patterns
from vit_jax.weights import tables
from vit_jax.weights.layout import Table

QKV = {"t": ("query", "key", "value"), "u": ("key", "value")}
Renames = Sequence[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Family:
    """One way of naming tensors.

    Attributes:
      name: what reports and options call it.
      format: google, timm or huggingface: which program's files these are.
      signature: a tensor that every file of the family has and no other family's.
      table: see `layout`.
      prefixes: what may stand before every name.
      renames: (pattern, replacement) that bring variants of a name to the table's.
      aside: pattern of a tensor that no classifier has, the mask token of self-supervised
        training; kept for the way back.
    """

    name: str
    format: str
    signature: str
    table: Table
    prefixes: Sequence[str] = ("",)
    renames: Renames = ()
    aside: str = "(?!)"


_BIG_VISION = r"^(Transformer/encoderblock(?:_\d+)?)"
_GOOGLE_RENAMES = (
    (_BIG_VISION + "/LayerNorm_1/", r"\1/LayerNorm_2/"),
    (_BIG_VISION + "/MultiHeadDotProductAttention_0/", r"\1/MultiHeadDotProductAttention_1/"),
    (_BIG_VISION + "/MlpBlock_0/", r"\1/MlpBlock_3/"),
    (r"^(Transformer/)?pos_embedding$", "Transformer/posembed_input/pos_embedding"),
    (r"^(block\d+)/unit0*(\d+)/", r"\1/unit\2/"),
)
_GOOGLE_PREFIXES = ("", "opt/target/", "params/img/", "params/", "target/", "img/")
_TF = "standardized_conv2d"
# big_vision's names of the published BiT, brought to those of the files.
_BIT_RENAMES = (
    (rf"/{_TF}_\d+/", f"/{_TF}/"),
    (r"^root_block/conv_root/", f"resnet/root_block/{_TF}/"),
    (r"^norm-pre-head/", "resnet/group_norm/"),
    (r"^(block\d+/unit\d+)/conv_proj/", rf"resnet/\1/a/proj/{_TF}/"),
    *((rf"^(block\d+/unit\d+)/conv{i}/", rf"resnet/\1/{p}/{_TF}/") for i, p in enumerate("abc", 1)),
    *(
        (rf"^(block\d+/unit\d+)/gn{i}/", rf"resnet/\1/{p}/group_norm/")
        for i, p in enumerate("abc", 1)
    ),
    (r"/group_norm/scale$", "/group_norm/gamma"),
    (r"/group_norm/bias$", "/group_norm/beta"),
    (r"^head/", "resnet/head/conv2d/"),
)
_TIMM_RENAMES = (
    (r"^register_tokens$", "reg_token"),  # DINOv2's own files
    (r"\.gamma_(\d)$", r".ls\1.gamma"),  # DeiT-III's own files
    (r"\.mlp\.w12\.", ".mlp.fc1."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
    (r"^fc_norm\.", "norm."),
    (r"^patch_embed\.backbone\.(conv|norm)\.", r"patch_embed.backbone.stem.\1."),
)
_HUGGINGFACE_RENAMES = ((r"^cls_classifier\.", "classifier."),)
_DINOV2_RENAMES = (
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.weights_out\.", ".mlp.fc2."),
)

FAMILIES = (
    Family(
        "Google ViT",
        "google",
        "Transformer/encoder_norm/scale",
        tables.GOOGLE,
        _GOOGLE_PREFIXES,
        _GOOGLE_RENAMES,
        aside="mask_token",
    ),
    Family(
        "Google BiT",
        "google",
        f"resnet/root_block/{_TF}/kernel",
        tables.GOOGLE_BIT,
        _GOOGLE_PREFIXES,
        _BIT_RENAMES,
    ),
    Family(
        "Google ResNet", "google", "gn_root/scale", tables.GOOGLE, _GOOGLE_PREFIXES, _GOOGLE_RENAMES
    ),
    Family(
        "timm ViT",
        "timm",
        "patch_embed.proj.weight",
        tables.TIMM,
        ("", "module.", "model."),
        _TIMM_RENAMES,
        aside="mask_token",
    ),
    Family("timm BiT", "timm", "stem.conv.weight", tables.TIMM_BIT),
    Family(
        "Hugging Face DINOv2",
        "huggingface",
        "encoder.layer.0.layer_scale1.lambda1",
        tables.DINOV2,
        ("", "dinov2.", "dinov2_with_registers."),
        _DINOV2_RENAMES,
        aside=r"embeddings\.mask_token",
    ),
    Family(
        "Hugging Face ViT",
        "huggingface",
        "encoder.layer.0.layernorm_before.weight",
        tables.HUGGINGFACE,
        ("", "vit.", "deit."),
        _HUGGINGFACE_RENAMES,
        aside=r"embeddings\.mask_token",
    ),
    Family(
        "Hugging Face BiT",
        "huggingface",
        "embedder.convolution.weight",
        tables.HUGGINGFACE_BIT,
        ("", "bit."),
    ),
)


@dataclasses.dataclass(frozen=True)
class Recognised:
    """A file's tensors under their table's names.

    Attributes:
      family: whose table that is.
      tensors: by the table's names.
      original: the file's name of each.
      aside: tensors kept for the way back: "mask_token".
      left_out: the file's names of what the caller asked to leave out.
    """

    family: Family
    tensors: dict[str, np.ndarray]
    original: dict[str, str]
    aside: dict[str, np.ndarray]
    left_out: list[str]


def recognise(
    path: str, tensors: Mapping[str, np.ndarray], leave_out: Sequence[str] = ()
) -> Recognised:
    """Finds the family of a file by its tensors' names.

    Args:
      path: for messages.
      tensors: by the file's names.
      leave_out: patterns of the file's names that are to be passed over.

    Raises:
      InputError: no family, or a pattern that matches nothing.
    """
    left_out = _left_out(path, tensors, leave_out)
    names = [name for name in tensors if name not in left_out]
    for family in FAMILIES:
        for prefix in family.prefixes:
            renamed = {name: canonical_name(name, prefix, family.renames) for name in names}
            if family.signature in renamed.values():
                found = _collect(path, family, renamed, tensors)
                return dataclasses.replace(found, left_out=left_out)
    some = ", ".join(sorted(names)[:3])
    known = ", ".join(family.name for family in FAMILIES)
    raise InputError(f"{path}: its tensors ({some}, ...) are of no known family: {known}")


def _left_out(path: str, names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    left_out = set()
    for pattern in name_patterns(patterns, "leave_out"):
        matches = {name for name in names if pattern.fullmatch(name)}
        if not matches:
            raise InputError(f"{path}: nothing to leave out is named {pattern.pattern!r}")
        left_out |= matches
    return sorted(left_out)


def canonical_name(name: str, prefix: str, renames: Renames) -> str:
    """A file's name for a tensor as the table has it."""
    name = name.removeprefix(prefix)
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


def _collect(
    path: str, family: Family, renamed: Mapping[str, str], tensors: Mapping[str, np.ndarray]
) -> Recognised:
    found = Recognised(family, {}, {}, {}, [])
    for name, canonical in renamed.items():
        if re.fullmatch(family.aside, canonical):
            found.aside[canonical.split(".")[-1]] = tensors[name]
            continue
        for part, array in _unscanned(canonical, tensors[name]):
            if part in found.tensors:
                raise InputError(f"{path} holds {part} twice: {found.original[part]} and {name}")
            found.tensors[part] = array
            found.original[part] = name
    return found


def _unscanned(name: str, array: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """big_vision's scanned blocks, with a leading layer axis, as one tensor a layer."""
    before, scanned, after = name.partition("Transformer/encoderblock/")
    if not scanned:
        return [(name, array)]
    return [(f"{before}Transformer/encoderblock_{i}/{after}", a) for i, a in enumerate(array)]
