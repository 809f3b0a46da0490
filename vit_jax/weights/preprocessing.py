"""Preprocessing of images for evaluation: resizing, cropping, normalisation."""

import dataclasses
import math
from typing import Any

from vit_jax.errors import InputError

HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Preprocessing for evaluation, independent of the image size.

    Attributes:
      share: side of the central crop divided by the smaller side of the resized image.
      squash: whether resizing ignores the aspect ratio.
      method: interpolation method of resizing.
      antialias: whether resizing low-passes when shrinking, as Pillow does.
      mean, std: per channel, of pixels in 0..1.
      floor: whether the side before the crop is rounded down and the corner of the crop to the
        nearest pixel, as in timm.
      truncate: whether the longer side is rounded down, as in timm and transformers.
      size: (height, width) that the files prepare images to; None: the model's own size.
      naflex: number and side of the patches of images of any size; (0, 0): images of one size.
      notes: differences from what the files say, one line each.
    """

    share: float = 1.0
    squash: bool = True
    method: str = "bilinear"
    antialias: bool = True
    mean: tuple[float, ...] = HALF
    std: tuple[float, ...] = HALF
    floor: bool = False
    truncate: bool = False
    size: Size | None = None
    naflex: Size = (0, 0)
    notes: tuple[str, ...] = ()

    def spec(self, size: Size) -> str:
        """The preprocessing string of vit_jax.data, for images of (height, width)."""
        if self.naflex[0]:
            method = "" if self.method == "bilinear" else f", method={self.method!r}"
            patches, side = self.naflex
            normalization = _normalization(self.mean, self.std)
            return f"naflex(patches={patches}, patch={side}{method})|{normalization}"
        how = "" if self.squash and self.method == "bilinear" else f", method={self.method!r}"
        how += ", antialias=True" if self.antialias else ""
        to_pixels = math.floor if self.floor else round
        whole = (to_pixels(size[0] / self.share), to_pixels(size[1] / self.share))
        how += ", truncate=True" if self.truncate and not self.squash else ""
        operations = [f"{'resize' if self.squash else 'resize_small'}({_show(whole)}{how})"]
        if not self.squash or whole != tuple(size):
            nearest = ", nearest=True" if self.floor else ""
            operations.append(f"central_crop({_show(size)}{nearest})")
        return "|".join([*operations, _normalization(self.mean, self.std)])

    @classmethod
    def parse(cls, spec: str) -> "Recipe":
        """The recipe of a preprocessing string; other operations than these are ignored."""
        from vit_jax.data import parse
        from vit_jax.data.ops.geometry import CentralCrop, Resize, ResizeSmall

        preprocess = parse(spec).deterministic()
        recipe = cls(mean=preprocess.mean, std=preprocess.std)
        if naflex := preprocess.naflex:
            size = (naflex.patches, naflex.patch)
            return dataclasses.replace(recipe, naflex=size, method=naflex.method)
        side = None
        for op in preprocess.ops:
            if isinstance(op, (Resize, ResizeSmall)):
                side = min(op.shape)
                squash, method = isinstance(op, Resize), op.method
                recipe = dataclasses.replace(
                    recipe, share=1.0, squash=squash, method=method, antialias=op.antialias
                )
                if isinstance(op, ResizeSmall):
                    recipe = dataclasses.replace(recipe, truncate=op.truncate)
            if isinstance(op, CentralCrop) and side:
                share = min(op.shape) / side
                recipe = dataclasses.replace(recipe, share=share, floor=op.nearest)
        # "area" averages what a pixel covers: of the others, bilinear with antialias is nearest.
        if recipe.method == "area":
            return dataclasses.replace(recipe, method="bilinear", antialias=True)
        return recipe


def other_preprocessing(program: str, spec: str, theirs: str) -> list[str]:
    """A line if another program cannot prepare images as a model expects, only nearly so.

    Args:
      program: name of the program, which resizes, crops and normalises by Pillow.
      spec: preprocessing of the model.
      theirs: preprocessing that the program's files express.

    Raises:
      InputError: the preprocessing has steps that the program lacks.
    """
    from vit_jax.data import parse
    from vit_jax.data.ops.geometry import CentralCrop, Pad, Resize, ResizeSmall

    wanted = parse(spec).deterministic().ops
    if wanted == parse(theirs).ops:
        return []
    steps = [type(op) for op in wanted]
    for op in wanted:
        known = (Resize, ResizeSmall, CentralCrop, Pad)
        if type(op) not in known or steps.count(type(op)) > 1:
            raise InputError(f"{program} cannot prepare images by {op}; write .npz instead")
    resizes = [i for i, step in enumerate(steps) if step in (Resize, ResizeSmall)]
    if len(resizes) > 1 or any(CentralCrop in steps[:i] or Pad in steps[:i] for i in resizes):
        raise InputError(f"{program} resizes once, before it crops, unlike {spec}; write .npz")
    return [
        f"{program} prepares images by {theirs}, which differs from this model's {spec}: "
        "logits will differ"
    ]


def _show(size: Size) -> str:
    return str(size[0]) if size[0] == size[1] else str(tuple(size))


def _normalization(mean: Any, std: Any) -> str:
    mean, std = (tuple(round(float(x), 6) for x in triple) for triple in (mean, std))
    if (mean, std) == (HALF, HALF):
        return "value_range(-1, 1)"
    if (mean, std) == (IMAGENET_MEAN, IMAGENET_STD):
        return "normalize"
    return f"normalize(mean={mean}, std={std})"
