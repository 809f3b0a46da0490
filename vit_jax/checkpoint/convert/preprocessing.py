"""How images are resized, cropped and normalised, in every family's own words and in ours."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vit_jax.checkpoint.convert.families import Recognised

HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PILLOW = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # its numbers for methods
Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Preprocessing for evaluation, whatever the image size.

    Attributes:
      share: the model sees this share of the smaller side, cut from the middle; None: the
        whole image, its aspect ratio not kept.
      method: of resizing.
      antialias: whether it low-passes when shrinking, as Pillow does.
      mean, std: per channel, of pixels in 0..1.
    """

    share: float | None = None
    method: str = "bilinear"
    antialias: bool = True
    mean: tuple[float, ...] = HALF
    std: tuple[float, ...] = HALF

    def spec(self, size: Size) -> str:
        """In the words of vit_jax.data, for images of (height, width)."""
        how = f", method={self.method!r}" if self.share or self.method != "bilinear" else ""
        how += ", antialias=True" if self.antialias else ""
        if self.share:
            whole = tuple(round(side / self.share) for side in size)
            operations = [f"resize_small({_show(whole)}{how})", f"central_crop({_show(size)})"]
        else:
            operations = [f"resize({_show(size)}{how})"]
        return "|".join([*operations, _normalization(self.mean, self.std)])

    @classmethod
    def parse(cls, spec: str) -> "Recipe":
        """The recipe behind our words; what it cannot say is left to the defaults."""
        from vit_jax.data import parse

        preprocess = parse(spec).deterministic()
        share, side, method, antialias = None, 1, cls.method, cls.antialias
        for op in preprocess.ops:
            if op.name in ("resize", "resize_small"):
                side, method, antialias = min(op.shape), op.method, op.antialias
            if op.name in ("resize_small", "central_crop"):
                share = min(op.shape) / side
        # "area" averages what a pixel covers: of the others, bilinear with antialias is nearest.
        if method == "area":
            method, antialias = "bilinear", True
        return cls(share, method, antialias, preprocess.mean, preprocess.std)


def _show(size: Size) -> str:
    return str(size[0]) if size[0] == size[1] else str(tuple(size))


def _normalization(mean: Any, std: Any) -> str:
    mean, std = (tuple(round(float(x), 6) for x in triple) for triple in (mean, std))
    if (mean, std) == (HALF, HALF):
        return "value_range(-1, 1)"
    if (mean, std) == (IMAGENET_MEAN, IMAGENET_STD):
        return "normalize"
    return f"normalize(mean={mean}, std={std})"


def recipe_of(found: Recognised, configs: Mapping[str, Any]) -> Recipe:
    """What a file's JSON says of preprocessing, else its family's habit."""
    if found.family.format == "timm":
        return _timm(configs.get("config.json", {}).get("pretrained_cfg", {}))
    if found.family.format == "huggingface":
        return _huggingface(found, configs.get("preprocessor_config.json", {}))
    if found.family.name == "Google ViT" and not any(
        "LayerNorm_2" in k for k in found.original.values()
    ):
        return Recipe(share=7 / 8)  # big_vision's
    return Recipe(antialias=False)


def _timm(config: Mapping[str, Any]) -> Recipe:
    """Files without config.json are Meta's own, of DeiT and DINOv2."""
    return Recipe(
        share=config.get("crop_pct", 224 / 256),
        method=config.get("interpolation", "bicubic"),
        mean=tuple(config.get("mean", IMAGENET_MEAN)),
        std=tuple(config.get("std", IMAGENET_STD)),
    )


def _huggingface(found: Recognised, config: Mapping[str, Any]) -> Recipe:
    vit = found.family.name == "Hugging Face ViT"
    if vit and "embeddings.distillation_token" not in found.tensors:
        habit = Recipe()
    else:
        habit = Recipe(224 / 256, "bicubic", True, IMAGENET_MEAN, IMAGENET_STD)
    if not config:
        return habit
    whole, cropped = (_sides(config.get(key)) for key in ("size", "crop_size"))
    share = None
    if config.get("do_center_crop") and whole and cropped:
        share = min(cropped) / min(whole)
    elif "shortest_edge" in str(config.get("size")):
        share = 1.0
    return Recipe(
        share=share,
        method=PILLOW.get(config.get("resample", 2), "bilinear"),
        mean=tuple(config.get("image_mean", habit.mean)),
        std=tuple(config.get("image_std", habit.std)),
    )


def _sides(size: Any) -> tuple[int, ...]:
    """transformers writes a number, {"height", "width"} or {"shortest_edge"}."""
    return (size,) if isinstance(size, int) else tuple((size or {}).values())


def to_timm(recipe: Recipe, size: Size) -> dict[str, Any]:
    """The preprocessing part of timm's `pretrained_cfg`."""
    return dict(
        input_size=[3, *size],
        fixed_input_size=True,
        interpolation=recipe.method,
        crop_pct=recipe.share or 1.0,
        crop_mode="center" if recipe.share else "squash",
        mean=list(recipe.mean),
        std=list(recipe.std),
    )


def to_huggingface(recipe: Recipe, size: Size) -> dict[str, Any]:
    """preprocessor_config.json; ViTImageProcessor resizes, BitImageProcessor crops too."""
    height, width = size
    config = dict(
        do_normalize=True,
        do_rescale=True,
        do_resize=True,
        image_mean=list(recipe.mean),
        image_std=list(recipe.std),
        resample=next(number for number, name in PILLOW.items() if name == recipe.method),
        rescale_factor=1 / 255,
    )
    if not recipe.share:
        return dict(
            config, image_processor_type="ViTImageProcessor", size=dict(height=height, width=width)
        )
    return dict(
        config,
        image_processor_type="BitImageProcessor",
        do_center_crop=True,
        crop_size=dict(height=height, width=width),
        size=dict(shortest_edge=round(min(size) / recipe.share)),
    )
