"""Images prepared as published files say, compared with transformers' own processors."""

import json

import numpy as np
import pytest
from PIL import Image

from vit_jax.data import load_images, parse
from vit_jax.weights.families import FAMILIES, Recognised
from vit_jax.weights.formats.huggingface import to_huggingface
from vit_jax.weights.formats.timm import to_timm
from vit_jax.weights.preprocessing import Recipe

transformers = pytest.importorskip("transformers")

MEAN, STD = [0.1, 0.2, 0.3], [0.5, 0.4, 0.3]
PROCESSORS = {
    "vit": ("ViTImageProcessor", dict(size=96, resample=2, image_mean=MEAN, image_std=STD)),
    "vit, not square": (
        "ViTImageProcessor",
        dict(size=dict(height=96, width=160), resample=3, do_normalize=False),
    ),
    "deit, squashed and cropped": (
        "DeiTImageProcessor",
        dict(
            size=dict(height=128, width=128),
            crop_size=dict(height=112, width=112),
            do_center_crop=True,
        ),
    ),
    "dinov2": (
        "BitImageProcessor",
        dict(size=dict(shortest_edge=128), crop_size=dict(height=112, width=112), resample=3),
    ),
}
SIZES = {"vit": (96, 96), "vit, not square": (96, 160)}


def recipe(files, family="Hugging Face ViT"):
    found = Recognised("x", family, FAMILIES[family], files)
    return found.family.recipe(found)


@pytest.fixture(scope="module")
def photograph(tmp_path_factory):
    from skimage import data

    file = tmp_path_factory.mktemp("photograph") / "coffee.png"  # 400 x 600
    Image.fromarray(data.coffee()).save(file)
    return file


@pytest.mark.parametrize("case", PROCESSORS)
def test_a_photograph_is_prepared_as_transformers_does(case, photograph, tmp_path):
    kind, options = PROCESSORS[case]
    processor = getattr(transformers, kind)(**options)
    processor.save_pretrained(tmp_path)
    size = SIZES.get(case, (112, 112))
    stored = json.loads((tmp_path / "preprocessor_config.json").read_text())
    found = recipe({"preprocessor_config.json": stored})
    pp = parse(found.spec(size))
    ours = (load_images([str(photograph)], pp)[0] / 255 - np.array(pp.mean)) / np.array(pp.std)
    theirs = processor(Image.open(photograph), return_tensors="np")["pixel_values"][0]
    levels = np.abs(ours - theirs.transpose(1, 2, 0)) * np.array(pp.std) * 255
    # Pillow rounds to bytes between the two axes: single pixels differ by a few grey levels.
    assert levels.mean() < 0.3 and np.quantile(levels, 0.999) <= 3

    again = to_huggingface(Recipe.parse(found.spec(size)), size)
    assert recipe({"preprocessor_config.json": again}).spec(size) == found.spec(size)
    assert hasattr(transformers, again["image_processor_type"])


@pytest.mark.parametrize(
    "given, spec",
    [
        (dict(size=112), "resize(112, antialias=True)"),
        (
            dict(size=128, crop_size=112, do_center_crop=True),
            "resize(128, antialias=True)|central_crop(112)",
        ),
        (
            dict(size=128, crop_size=112, do_center_crop=True, feature_extractor_type="BitX"),
            "resize_small(128, method='bilinear', antialias=True)|central_crop(112)",
        ),
    ],
)
def test_older_files_give_sizes_as_numbers(given, spec):
    found = recipe({"preprocessor_config.json": given})
    assert found.spec((112, 112)) == f"{spec}|value_range(-1, 1)"


@pytest.mark.parametrize(
    "spec",
    [
        "resize(64, antialias=True)|value_range(-1, 1)",
        "resize(80, method='bicubic', antialias=True)|central_crop(64)|normalize",
        "resize_small(64, method='bicubic', antialias=True)|central_crop(64)|normalize",
        "resize_small((80, 120), method='bilinear', antialias=True)|central_crop((64, 96))"
        "|normalize(mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5))",
    ],
)
def test_timm_and_back(spec):
    size = (64, 96) if "96" in spec else (64, 64)
    assert Recipe.parse(spec).spec(size) == spec
    document = dict(pretrained_cfg=to_timm(Recipe.parse(spec), size))
    assert recipe({"config.json": document}, "timm ViT").spec(size) == spec


def test_a_crop_without_resizing_says_nothing_of_other_sizes():
    assert (
        Recipe.parse("central_crop(24)|value_range(-1, 1)").spec((48, 48)).startswith("resize(48")
    )
