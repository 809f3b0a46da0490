"""Images prepared as published files say, compared with transformers' own processors."""

import json

import numpy as np
import pytest
from PIL import Image

from vit_jax.data import load_images, parse
from vit_jax.errors import InputError
from vit_jax.weights.families import FAMILIES, Recognised
from vit_jax.weights.formats.huggingface.vit import to_huggingface
from vit_jax.weights.formats.timm.write import to_timm
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
    assert found.size == size and not found.notes
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
            "resize_small(128, method='bilinear', antialias=True, truncate=True)|central_crop(112)",
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
        "resize(80, method='bicubic', antialias=True)|central_crop(64, nearest=True)|normalize",
        "resize_small(71, method='bicubic', antialias=True, truncate=True)"
        "|central_crop(64, nearest=True)|normalize",
        "resize_small((80, 120), method='bilinear', antialias=True, truncate=True)"
        "|central_crop((64, 96), nearest=True)"
        "|normalize(mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5))",
    ],
)
def test_timm_and_back(spec):
    size = (64, 96) if "96" in spec else (64, 64)
    assert Recipe.parse(spec).spec(size) == spec
    document = dict(architecture="vit_base_patch16_224", model_args={})
    document |= dict(pretrained_cfg=to_timm(Recipe.parse(spec), size))
    assert recipe({"config.json": document}, "timm ViT").spec(size) == spec


def test_a_crop_without_resizing_says_nothing_of_other_sizes():
    assert (
        Recipe.parse("central_crop(24)|value_range(-1, 1)").spec((48, 48)).startswith("resize(48")
    )


def test_timms_earlier_layout_is_read():
    """One object for all, as on the hub before timm 0.9; timm: floor(224 / 0.9) = 248."""
    document = dict(architecture="vit_tiny_patch16_224", input_size=[3, 224, 224], crop_pct=0.9)
    document |= dict(mean=[0.5] * 3, std=[0.5] * 3, interpolation="bicubic", num_features=192)
    found = recipe({"config.json": document}, "timm ViT")
    assert found.spec((224, 224)) == (
        "resize_small(248, method='bicubic', antialias=True, truncate=True)"
        "|central_crop(224, nearest=True)|value_range(-1, 1)"
    )


@pytest.mark.parametrize(
    "changes, note",
    [
        (dict(resample=1), "resampling is bicubic here, not Pillow's method 1"),
        (dict(do_resize=False), "images are resized here"),
        (dict(do_pad=True), "images are not padded here"),
    ],
)
def test_differences_from_the_files_are_said(changes, note):
    found = recipe({"preprocessor_config.json": dict(size=96, **changes)})
    assert found.notes[0].startswith(note)


def test_another_rescaling_is_done():
    """x / 127.5, then (x - 0.5) / 0.5, is (x / 255 - 0.25) / 0.25."""
    found = recipe({"preprocessor_config.json": dict(size=96, rescale_factor=1 / 127.5)})
    np.testing.assert_allclose((found.mean, found.std), 0.25)


@pytest.mark.parametrize("value", [None, "x", [], {}, -1, 1e30, True, 10**400])
@pytest.mark.parametrize(
    "key", ["size", "crop_size", "image_mean", "resample", "rescale_factor", "do_resize", "other"]
)
def test_junk_is_taken_or_refused_in_one_line(key, value):
    try:
        recipe({"preprocessor_config.json": {"size": 96, key: value}})
    except InputError as error:
        assert key in str(error) and len(str(error).splitlines()) == 1 and len(str(error)) < 300
