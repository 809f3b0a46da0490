"""Reads and writes preprocessor_config.json of transformers."""

from collections.abc import Mapping
from typing import Any

from vit_jax.models.config import Size
from vit_jax.weights.families import Recognised
from vit_jax.weights.files.json_fields import Fields
from vit_jax.weights.preprocessing import HALF, IMAGENET_MEAN, IMAGENET_STD, Recipe

PILLOW = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # its numbers for methods
CROPPED = Recipe(224 / 256, False, "bicubic", True, IMAGENET_MEAN, IMAGENET_STD, truncate=True)
_PROCESSOR = (
    *("image_processor_type", "feature_extractor_type", "processor_class", "do_convert_rgb"),
    *("data_format", "input_data_format", "return_tensors", "device", "disable_grouping"),
    *("_valid_processor_keys", "default_to_square", "do_pad", "pad_size", "auto_map"),
    *("do_reduce_labels", "reduce_labels"),
)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


# What a processor does where its file is silent, by how its name begins, and whether one number
# for the size is the shorter side.
_PROCESSORS: dict[str, tuple[dict[str, Any], bool]] = {
    "Bit": (dict(resample=2), True),
    "CLIP": (
        dict(
            resample=3,
            do_center_crop=True,
            size=dict(shortest_edge=224),
            crop_size=224,
            image_mean=CLIP_MEAN,
            image_std=CLIP_STD,
        ),
        True,
    ),
    "Siglip": (dict(resample=3, size=dict(height=224, width=224)), True),
    "Beit": (dict(resample=3, size=dict(height=224, width=224)), False),
}


def _document(found: Recognised) -> Mapping[str, Any] | None:
    """The content of preprocessor_config.json, which may be a part of processor_config.json."""
    document = found.configs.get("preprocessor_config.json")
    if document is None:
        whole = found.configs.get("processor_config.json")
        document = whole.get("image_processor") if isinstance(whole, Mapping) else None
    return document


def recipe(found: Recognised, usual: Recipe = CROPPED) -> Recipe:
    """The preprocessing in preprocessor_config.json; without that file, the usual one.

    Raises:
      InputError: a field that is not understood.
    """
    document = _document(found)
    if document is None:
        return usual
    where = f"{found.path}: preprocessor_config.json"
    config = Fields(document, where)
    notes = []
    kind = config.take("image_processor_type", str) or config.take("feature_extractor_type", str)
    silent = [each for name, each in _PROCESSORS.items() if (kind or "").startswith(name)]
    defaults, shorter = silent[0] if silent else ({}, False)
    square = not shorter
    given = {key: value for key, value in config.rest().items() if value is not None}
    config = Fields({**defaults, **given}, where)
    sides, keeps = _sides(config, "size", square)
    cropped, _ = _sides(config, "crop_size", True)
    if not config.take("do_center_crop", bool, False):
        cropped = None
    if not config.take("do_resize", bool, True):
        notes.append("images are resized here, which the files do not ask for (do_resize)")
    if config.rest().get("do_pad"):
        notes.append("images are not padded here (do_pad)")
    number = config.take("resample", int, 2)
    if number not in PILLOW:
        notes.append(f"resampling is bicubic here, not Pillow's method {number} (resample)")
    scale = config.take("rescale_factor", float, 1 / 255)
    scale = 255 * scale if config.take("do_rescale", bool, True) else 255.0
    if not scale:
        raise config.error("rescale_factor", scale, "it must not be 0")
    mean, std = config.numbers("image_mean", 3, usual.mean), config.numbers("image_std", 3)
    std = std or usual.std
    if config.take("do_normalize", bool, True) is False:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    config.only("do_flip_channel_order", False)
    config.ignore(_PROCESSOR)
    config.close()
    return Recipe(
        share=min(cropped) / min(sides) if cropped and sides else 1.0,
        squash=not keeps,
        method=PILLOW.get(number, "bicubic"),
        mean=tuple(value / scale for value in mean),
        std=tuple(value / scale for value in std),
        truncate=keeps,
        size=cropped or sides,
        notes=tuple(notes),
    )


def naflex_recipe(found: Recognised, patch: int) -> Recipe:
    """The preprocessing of SigLIP 2 for images of any size (Siglip2ImageProcessor).

    Args:
      found: a file.
      patch: side of the model's patches in pixels.

    Raises:
      InputError: a field that is not understood.
    """
    config = Fields(_document(found) or {}, f"{found.path}: preprocessor_config.json")
    config.only("image_processor_type", "Siglip2ImageProcessor", *_NAFLEX_PROCESSORS)
    config.only("patch_size", patch)
    for name in ("do_resize", "do_rescale", "do_normalize"):
        config.only(name, True)
    length = config.take("max_num_patches", int, 256)
    number = config.take("resample", int, 2)
    if PILLOW.get(number) not in ("bilinear", "bicubic"):
        raise config.error("resample", number, "it is not supported, only 2 or 3")
    scale = 255 * config.take("rescale_factor", float, 1 / 255)
    if not scale or not length:
        raise config.error("rescale_factor", scale, "it and max_num_patches must not be 0")
    mean = config.numbers("image_mean", 3, HALF)
    std = config.numbers("image_std", 3, HALF)
    config.ignore(_PROCESSOR)
    config.close()
    return Recipe(
        method=PILLOW[number],
        mean=tuple(value / scale for value in mean),
        std=tuple(value / scale for value in std),
        naflex=(length, patch),
    )


_NAFLEX_PROCESSORS = ("Siglip2ImageProcessorFast", "Siglip2ImageProcessorPil")


def _sides(config: Fields, name: str, square: bool) -> tuple[tuple[int, int] | None, bool]:
    """A field with the sides of images in pixels, and whether the aspect ratio is kept."""
    value = config.rest().get(name)
    if not isinstance(value, Mapping):
        return config.size(name), value is not None and not square
    inner = config.section(name)
    shortest = inner.size("shortest_edge")
    height, width = inner.size("height"), inner.size("width")
    inner.close()
    if shortest:
        return shortest, True
    if not height or not width:
        raise config.error(name, value, "it must have height and width, or shortest_edge")
    return (height[0], width[0]), False


def to_huggingface(recipe: Recipe, size: Size) -> dict[str, Any]:
    """The content of preprocessor_config.json with the same preprocessing."""
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
    if recipe.naflex[0]:
        length, patch = recipe.naflex
        return dict(
            config,
            image_processor_type="Siglip2ImageProcessor",
            max_num_patches=length,
            patch_size=patch,
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
