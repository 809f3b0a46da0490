"""Infers a model's configuration from the names and shapes of a file's tensors."""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any

from vit_jax.errors import InputError
from vit_jax.models.config import BiTConfig, ModelConfig
from vit_jax.models.variants import VARIANTS
from vit_jax.models.vit_config import ViTConfig
from vit_jax.weights.families import Recognised, Words, no_family, without_place
from vit_jax.weights.layout import MAX_BRANCHES, Shape, groups, place

# (width, depth, MLP width) -> number of heads, which tensors may not show: the sizes with a plain
# MLP, and DINOv2's g.
_HEADS = {
    (size["width"], size["depth"], size["mlp_dim"]): size["num_heads"]
    for size in VARIANTS.values()
    if "mlp" not in size
}
_HEADS |= {(1536, 40, 4096): 24}

# A norm that every layer has, in blocks of any kind.
_FIRST_NORMS = ("blocks/norm1/scale", "blocks/branch0/norm1/scale")
# Axes that every ViT has, and the tensors that have them.
_PARTS = dict(d="norm", p="patch embedding", q="patch embedding", m="MLP")
# Fields that tensors show; JSON that says something else is of another model.
_IN_TENSORS = (
    *("width", "depth", "patch_size", "mlp_dim", "num_heads", "registers", "norm", "patch_norm"),
    *("norm_pre", "attention_norm", "mlp_norm", "final_norm", "qk_norm", "qkv_bias", "out_bias"),
    *("mlp_bias", "patch_bias", "mlp", "position_bias"),
)


@dataclasses.dataclass(frozen=True)
class Survey:
    """What names and shapes of tensors show.

    Attributes:
      rows: rows of the table (our parameters) that the file has.
      sizes: lengths of axes by letter.
      depth: number of blocks.
      stages: number of units of each stage of a ResNet.
    """

    rows: set[str]
    sizes: dict[str, int]
    depth: int
    stages: tuple[int, ...]

    def has(self, part: str) -> bool:
        """Whether the blocks have a parameter, such as "norm1/scale"."""
        return f"blocks/{part}" in self.rows or f"blocks/branch0/{part}" in self.rows


def survey(found: Recognised) -> Survey:
    """Looks up every row of the family's table in the file."""
    table, shapes = found.family.table, {k: v.shape for k, v in found.tensors.items()}
    templates = [template for template, _ in table.values()]
    rows: set[str] = set()
    sizes: dict[str, int] = {}
    for row, (template, axes) in table.items():
        names = _of_first_layer(template, found.family.words)
        if all(name in shapes for name in names):
            rows.add(row)
            if templates.count(template) == 1:
                sizes = _read_axes(axes, shapes[names[0]]) | sizes
    rows = _gated_or_not(rows, sizes, table, shapes)
    first = next((row for row in _FIRST_NORMS if row in rows), "")
    norm = table.get(first, ("", ""))[0]
    counted = _count(lambda i: norm.format(l=i) in shapes) if "{l}" in norm else 0
    depth = sizes.get("l", counted)  # an axis of the tensors, or a number in their names
    unit = next((table[r][0] for r in table if r.endswith("unit{c}/conv1/kernel")), "")
    stages = tuple(
        itertools.takewhile(
            bool,
            (
                _count(lambda c, s=s: place(unit, dict(s=s, c=c + 1)) in shapes)
                for s in itertools.count(1)
            ),
        )
    )
    return Survey(rows, sizes, depth, stages if unit else ())


def _of_first_layer(template: str, words: Words) -> list[str]:
    """Names of a row's tensors for the first layer, stage and unit."""
    template = place(template, dict(s=1, c=1))
    counted = [letter for letter in words if f"{{{letter}}}" in template]
    return [
        template.format(l=0, **dict(zip(counted, chosen)))
        for chosen in itertools.product(*(words[letter] for letter in counted))
    ]


def _read_axes(axes: str, shape: Shape) -> dict[str, int]:
    letters = groups(axes)
    if len(letters) != len(shape):
        return {}
    return {letter: size for letter, size in zip(letters, shape) if len(letter) == 1}


def _count(exists) -> int:
    return next(i for i in itertools.count() if not exists(i))


def _gated_or_not(rows: set[str], sizes: Mapping[str, int], table, shapes) -> set[str]:
    """Removes one of the plain and the gated MLP, which may have names in common."""
    plain, gated = "blocks/mlp/fc1/", "blocks/mlp/gated/"
    if not {f"{plain}kernel", f"{gated}kernel"} <= rows:
        return rows
    packed = table[f"{plain}kernel"][0] == table[f"{gated}kernel"][0]
    hidden = shapes[table[f"{plain}kernel"][0].format(l=0)][0]
    wrong = gated if packed and hidden != 2 * sizes.get("m", 0) else plain
    return {row for row in rows if not row.startswith(wrong)}


def infer(
    path: str, found: Recognised, hints: Mapping[str, Any], options: Mapping[str, Any]
) -> ViTConfig | BiTConfig:
    """The configuration of the model that the file holds.

    Args:
      path: path of the file, for messages.
      found: tensors of the file.
      hints: fields of the configuration that the JSON beside the file or the family gives.
      options: options from the caller, used where tensors and hints leave something open.

    Raises:
      InputError: something has to be given; the message names it.
    """
    seen = survey(found)
    hints = {key: value for key, value in hints.items() if value is not None}
    if "resnet/conv_root/kernel" in seen.rows and seen.depth == 0:
        return _infer_bit(seen, hints, options)
    fields = _structure(path, found, seen, {**options, **hints})
    for key in _IN_TENSORS:
        if hints.get(key, fields[key]) != fields[key]:
            where = next(iter(found.configs), "config.json")
            raise InputError(
                f"{path}: {where} says {key} {hints[key]}, the tensors {fields[key]}; one of both "
                "is of another model"
            )
    fields |= _positions(path, seen, fields, hints, options)
    stem = ("resnet_norm_eps", "resnet_conv_eps") if fields["resnet_stages"] is not None else ()
    fields |= {
        key: hints[key] for key in ("norm_eps", "naflex", "naflex_resize", *stem) if key in hints
    }
    gelu = hints.get("gelu") or options.get("gelu")
    if not gelu:
        raise InputError(
            f"{path} does not tell how it computes GELU; give gelu: tanh, erf or quick"
        )
    fields["gelu"] = gelu
    try:
        return ViTConfig(**fields)
    except InputError as error:
        where = "config.json: " if found.config_json else ""
        raise InputError(f"{path}: {where}{error}") from error


def check_sizes(where: str, found: Recognised, config: ModelConfig) -> None:
    """Compares sizes of a described model with the tensors, before anything is made in its size.

    Args:
      where: place of the description, for messages.
      found: tensors of the file.
      config: configuration of the described model.

    Raises:
      InputError: a size is another one; the message names the option.
    """
    seen = survey(found)
    sizes = dict(
        width=seen.sizes.get("d"),
        depth=seen.depth or None,
        mlp_dim=seen.sizes.get("m"),
        num_classes=seen.sizes.get("o", 0),
        pre_logits=seen.sizes.get("e", 0) if "pre_logits/kernel" in seen.rows else 0,
        projection=seen.sizes.get("e", 0) if "projection/kernel" in seen.rows else 0,
        registers=seen.sizes.get("r", 0),
        resnet_stages=seen.stages or None,
        resnet_width=seen.sizes.get("y", 0) // 64 or None,
        num_heads=seen.sizes.get("h"),
    )
    if "p" in seen.sizes:
        sizes["patch_size"] = (seen.sizes["p"], seen.sizes["q"])
    for name, size in sizes.items():
        said = getattr(config, name, size)
        if size is not None and said is not None and said != size:
            raise InputError(
                f"{where}: model.{name} is {said!r} and the tensors have {size!r}; restore the file"
            )


def _infer_bit(seen: Survey, hints: Mapping, options: Mapping) -> BiTConfig:
    size = hints.get("image_size", options.get("image_size") or 224)
    return BiTConfig(
        resnet_stages=seen.stages,
        resnet_width=max(1, seen.sizes.get("y", 64) // 64),
        preact="resnet/gn_root/scale" not in seen.rows,
        resnet_norm_eps=hints.get("resnet_norm_eps"),
        resnet_conv_eps=hints.get("resnet_conv_eps"),
        image_size=_pair(size),
        num_classes=seen.sizes.get("o", 0),
    )


def _structure(
    path: str, found: Recognised, seen: Survey, known: Mapping[str, Any]
) -> dict[str, Any]:
    """The fields that decide which parameters a ViT has and their shapes."""
    sizes, rows = seen.sizes, seen.rows
    pixels = "embedding/palette" in rows  # instead of patches
    parts = {**_PARTS, "p": "palette", "q": "palette"} if pixels else _PARTS
    if pixels:
        sizes = sizes | dict(p=1, q=1)
    absent = [part for letter, part in parts.items() if not sizes.get(letter)]
    if (absent or not seen.depth) and without_place(found):
        raise no_family(path, list(found.original.values()))
    if absent or not seen.depth:
        part = absent[0] if absent else "blocks"
        raise InputError(f"{path} is not a whole model: its tensors hold no {part}")
    width = sizes.get("d", 0)
    usual = _HEADS.get((width, seen.depth, sizes.get("m", 0)))
    heads = sizes.get("h") or known.get("num_heads") or usual
    if not heads:
        raise InputError(
            f"{path} does not tell how many attention heads it has; give num_heads, as by "
            "vit_jax convert SRC DST --set num_heads=12"
        )
    hybrid = "stem/conv_root/kernel" in rows
    fields: dict[str, Any] = dict(
        width=width,
        depth=seen.depth,
        mlp_dim=sizes.get("m", 0),
        num_heads=heads,
        patch_size=(sizes["p"], sizes["q"]),
        num_classes=sizes.get("o", 0),
        resnet_stages=seen.stages if hybrid else None,
        class_token="cls" in rows,
        distillation="none",
        registers=sizes.get("r", 0),
        layer_scale=known.get("layer_scale", 1.0) if seen.has("scale1") else None,
        pool_then_norm=bool(known.get("pool_then_norm", False)),
        classifier_bias=not pixels or "head/bias" in rows,
        **_parts(seen, known, heads),
    )
    if hybrid:
        fields["resnet_width"] = max(1, sizes.get("y", 64) // 64)
    if pixels:
        fields |= dict(palette=sizes["C"], color_head="color_head/kernel" in rows)
        fields["attention_kind"] = known.get("attention_kind") or (
            "causal" if "embedding/start" in rows else "full"
        )
    if "dist" in rows:
        fields["distillation"] = "head" if "head_dist/kernel" in rows else "token"
    fields["head"] = known.get("head") or _head(seen, fields["class_token"])
    if fields["class_token"] == (fields["head"] in ("token", "token_gap")):
        fields["class_token"] = None
    return fields


def _parts(seen: Survey, known: Mapping[str, Any], heads: int) -> dict[str, Any]:
    """The kind of each part of the network: block, norms, biases, MLP, positions, pooling."""
    rows, sizes = seen.rows, seen.sizes
    map_heads = known.get("map_heads") or sizes.get("H", 0)
    branches = sum(f"blocks/branch{i}/norm1/scale" in rows for i in range(MAX_BRANCHES))
    block = f"branched(count={branches})" if branches else "sequential"
    if not seen.has("norm2/scale"):
        block = "parallel"
    qkv_bias = "no_key" if seen.has("attention/query_value/bias") else "none"
    fields = dict(
        block=known.get("block") or block,
        norm="layer" if seen.has("norm1/bias") else "rms",
        patch_norm="patch_norm/scale" in rows,
        norm_pre="norm_pre/scale" in rows,
        attention_norm=seen.has("attention/norm/scale"),
        mlp_norm=seen.has("mlp/norm/scale"),
        final_norm="norm/scale" in rows,
        qkv_bias="all" if seen.has("attention/qkv/bias") else qkv_bias,
        out_bias=seen.has("attention/out/bias"),
        mlp_bias=seen.has("mlp/fc2/bias"),
        patch_bias="embedding/bias" in rows,
        qk_norm=seen.has("attention/query_norm/scale"),
        mlp="swiglu" if seen.has("mlp/gated/kernel") else "gelu",
        rotary=known.get("rotary") or ("mixed" if seen.has("rotary/frequencies") else "none"),
        position_bias=_position_bias(seen),
        pool_prefix=bool(known.get("pool_prefix", False)),
        map_heads=0 if map_heads == heads else map_heads,
        pre_logits=sizes.get("e", 0) if "pre_logits/kernel" in rows else 0,
        projection=sizes.get("e", 0) if "projection/kernel" in rows else 0,
    )
    if sizes.get("M", sizes.get("m")) != sizes.get("m"):
        fields["map_mlp_dim"] = sizes["M"]
    return fields


def _position_bias(seen: Survey) -> str:
    """The option `position_bias`."""
    for name, kind in (("table", "table"), ("fc1/kernel", "mlp")):
        own, shared = (f"{prefix}position_bias/{name}" in seen.rows for prefix in ("blocks/", ""))
        if own or shared:
            options = [f"shared={shared}"]
            options += [f"hidden={seen.sizes['v']}"] if kind == "mlp" else []
            return f"{kind}({', '.join(options)})"
    return "none"


def _head(seen: Survey, class_token: bool) -> str:
    if "map_head/probe" in seen.rows:
        return "map"
    inputs = seen.sizes.get("f" if "e" in seen.sizes else "z")
    if inputs == 2 * seen.sizes["d"]:
        return "token_gap"
    return "token" if class_token else "gap"


def _positions(
    path: str, seen: Survey, fields: Mapping, hints: Mapping, options: Mapping
) -> dict[str, Any]:
    """Image size, and which tokens have positions, from the length of the position embedding."""
    stem = fields["resnet_stages"]
    stride = 1 if stem is None else 4 * 2 ** max(0, len(stem) - 1)
    pixels = [patch * stride for patch in fields["patch_size"]]
    stated = [_pair(given["image_size"]) for given in (hints, options) if given.get("image_size")]
    if "n" not in seen.sizes:
        return _no_positions(path, stated, hints, options)
    class_slots = ("cls" in seen.rows) + ("dist" in seen.rows)
    slots = {class_slots: (True, False), 0: (False, False)}
    if fields["registers"]:
        slots[class_slots + fields["registers"]] = (True, True)
    if "posemb_class_slot" in hints:  # timm: all tokens before the patches have one, or none
        whole = hints["posemb_class_slot"]
        slots = {class_slots + fields["registers"]: (True, bool(fields["registers"]))}
        slots = slots if whole else {0: (False, False)}

    def result(count, image_size):
        class_slot, register_slots = slots[count]
        return dict(
            image_size=image_size,
            posemb_class_slot=class_slot or not class_slots,
            posemb_register_slots=register_slots,
        )

    # A stated size may be meant for later, so it counts only if it is this embedding's.
    for count, size in itertools.product(slots, stated):
        if count + math.prod(_grid(size, pixels, stem)) == seen.sizes["n"]:
            return result(count, size)
    for count in slots:
        patches = seen.sizes["n"] - count
        side = math.isqrt(max(0, patches))
        if side and side * side == patches:
            return result(count, (side * pixels[0], side * pixels[1]))
    raise InputError(
        f"{path}: its {seen.sizes['n']} positions make no square; give the image_size "
        f"(height, width) it was trained with"
    )


def _grid(size: tuple[int, int], pixels: list[int], stem: tuple | None) -> tuple[int, int]:
    """Rows and columns of patches in an image; incomplete patches are cut off, a stem pads."""
    if stem is None:
        return size[0] // pixels[0], size[1] // pixels[1]
    stride = 4 * 2 ** max(0, len(stem) - 1)
    return tuple(-(-side // stride) // (pixel // stride) for side, pixel in zip(size, pixels))


def _no_positions(path: str, stated: list, hints: Mapping, options: Mapping) -> dict[str, Any]:
    posemb = hints.get("posemb") or options.get("posemb")
    if not posemb:
        raise InputError(f"{path} has no position embedding: give posemb, such as sincos2d or none")
    if not stated:
        raise InputError(
            f"{path} does not tell the image size it was trained with: give image_size"
        )
    return dict(posemb=posemb, image_size=stated[0])


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)
