"""How images are resized, cropped and normalised, in every family's own words and in ours."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vit_jax.weights.families import Recognised

HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PILLOW = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # its numbers for methods
Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Preprocessing for evaluation, whatever the image size.

    Attributes:
      share: the model sees this share of the resized image's smaller side, from the middle.
      squash: whether resizing gives up the aspect ratio.
      method: of resizing.
      antialias: whether it low-passes when shrinking, as Pillow does.
      mean, std: per channel, of pixels in 0..1.
    """

    share: float = 1.0
    squash: bool = True
    method: str = "bilinear"
    antialias: bool = True
    mean: tuple[float, ...] = HALF
    std: tuple[float, ...] = HALF

    def spec(self, size: Size) -> str:
        """In the words of vit_jax.data, for images of (height, width)."""
        how = "" if self.squash and self.method == "bilinear" else f", method={self.method!r}"
        how += ", antialias=True" if self.antialias else ""
        whole = tuple(round(side / self.share) for side in size)
        operations = [f"{'resize' if self.squash else 'resize_small'}({_show(whole)}{how})"]
        if not self.squash or whole != tuple(size):
            operations.append(f"central_crop({_show(size)})")
        return "|".join([*operations, _normalization(self.mean, self.std)])

    @classmethod
    def parse(cls, spec: str) -> "Recipe":
        """The recipe behind our words; what it cannot say is left to the defaults."""
        from vit_jax.data import parse

        preprocess = parse(spec).deterministic()
        recipe = cls(mean=preprocess.mean, std=preprocess.std)
        side = None
        for op in preprocess.ops:
            if op.name in ("resize", "resize_small"):
                side = min(op.shape)
                squash, method = op.name == "resize", op.method
                recipe = dataclasses.replace(
                    recipe, share=1.0, squash=squash, method=method, antialias=op.antialias
                )
            if op.name == "central_crop" and side:
                recipe = dataclasses.replace(recipe, share=min(op.shape) / side)
        # "area" averages what a pixel covers: of the others, bilinear with antialias is nearest.
        if recipe.method == "area":
            return dataclasses.replace(recipe, method="bilinear", antialias=True)
        return recipe


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
        return Recipe(7 / 8, squash=False)  # big_vision's
    return Recipe(antialias=False)


def _timm(config: Mapping[str, Any]) -> Recipe:
    """Files without config.json are Meta's own, of DeiT and DINOv2."""
    return Recipe(
        share=config.get("crop_pct", 224 / 256),
        squash=config.get("crop_mode") == "squash",
        method=config.get("interpolation", "bicubic"),
        mean=tuple(config.get("mean", IMAGENET_MEAN)),
        std=tuple(config.get("std", IMAGENET_STD)),
    )


def _huggingface(found: Recognised, config: Mapping[str, Any]) -> Recipe:
    vit = found.family.name == "Hugging Face ViT"
    if vit and "embeddings.distillation_token" not in found.tensors:
        habit = Recipe()
    else:
        habit = Recipe(224 / 256, False, "bicubic", True, IMAGENET_MEAN, IMAGENET_STD)
    if not config:
        return habit
    whole, cropped = (_sides(config.get(key)) for key in ("size", "crop_size"))
    crops = config.get("do_center_crop") and whole and cropped
    mean, std = config.get("image_mean", habit.mean), config.get("image_std", habit.std)
    if config.get("do_normalize") is False:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return Recipe(
        share=min(cropped) / min(whole) if crops else 1.0,
        squash=not _keeps_aspect(config),
        method=PILLOW.get(config.get("resample", 2), "bilinear"),
        mean=tuple(mean),
        std=tuple(std),
    )


def _keeps_aspect(config: Mapping[str, Any]) -> bool:
    """A number is the shorter side to some of transformers' processors, both to the others."""
    kind = config.get("image_processor_type") or config.get("feature_extractor_type") or ""
    size = config.get("size")
    return kind.startswith("Bit") if isinstance(size, int) else "shortest_edge" in (size or ())


def _sides(size: Any) -> tuple[int, ...]:
    """transformers writes a number, {"height", "width"} or {"shortest_edge"}."""
    return (size,) if isinstance(size, int) else tuple((size or {}).values())


def to_timm(recipe: Recipe, size: Size) -> dict[str, Any]:
    """The preprocessing part of timm's `pretrained_cfg`."""
    return dict(
        input_size=[3, *size],
        fixed_input_size=True,
        interpolation=recipe.method,
        crop_pct=recipe.share,
        crop_mode="squash" if recipe.squash else "center",
        mean=list(recipe.mean),
        std=list(recipe.std),
    )


def to_huggingface(recipe: Recipe, size: Size) -> dict[str, Any]:
    """preprocessor_config.json of the processor that does the same."""
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
    if recipe.squash and recipe.share == 1.0:
        return dict(
            config, image_processor_type="ViTImageProcessor", size=dict(height=height, width=width)
        )
    config |= dict(do_center_crop=True, crop_size=dict(height=height, width=width))
    if recipe.squash:
        whole = dict(height=round(height / recipe.share), width=round(width / recipe.share))
        return dict(config, image_processor_type="DeiTImageProcessor", size=whole)
    shorter = dict(shortest_edge=round(min(size) / recipe.share))
    return dict(config, image_processor_type="BitImageProcessor", size=shorter)
