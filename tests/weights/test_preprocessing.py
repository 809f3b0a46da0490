"""Images prepared as published files say, compared with transformers' own processors."""

import dataclasses
import json
import math

import numpy as np
import pytest
from PIL import Image

from tests.weights.test_json import small_weights
from vit_jax.data import load_images, parse
from vit_jax.errors import InputError
from vit_jax.weights.families import FAMILIES, Recognised
from vit_jax.weights.formats.huggingface.processor import to_huggingface
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
    "clip": (
        "CLIPImageProcessor",
        dict(size=dict(shortest_edge=112), crop_size=dict(height=112, width=112)),
    ),
    "siglip": ("SiglipImageProcessor", dict(size=dict(height=96, width=96))),
    "beit": ("BeitImageProcessor", dict(size=dict(height=96, width=96), resample=2)),
    "beit, cropped": (
        "BeitImageProcessor",
        dict(
            size=dict(height=128, width=128),
            crop_size=dict(height=112, width=112),
            do_center_crop=True,
        ),
    ),
}
SIZES = {"vit": (96, 96), "vit, not square": (96, 160), "siglip": (96, 96), "beit": (96, 96)}


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
    assert levels.max() < 0.01  # the same bytes

    again = to_huggingface(Recipe.parse(found.spec(size)), size)
    assert recipe({"preprocessor_config.json": again}).spec(size) == found.spec(size)
    assert found.size == size and not found.notes
    assert hasattr(transformers, again["image_processor_type"])


def photographs():
    """Real photographs of odd sizes: (name, uint8 array)."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    china, flower = load_sample_images().images
    return dict(
        coffee=data.coffee(),
        astronaut=data.astronaut()[:511, :387],
        cat=data.chelsea(),
        rocket=data.rocket()[:, :333],
        china=china,
        flower=flower[:201],
    )


@pytest.mark.parametrize("name", photographs())
def test_photographs_are_resized_and_cropped_as_timm_and_torchvision_do(name, tmp_path):
    """Pillow resizes; sides and corners are rounded as torchvision's Resize and CenterCrop do."""
    photo = Image.fromarray(photographs()[name])
    photo.save(tmp_path / "x.png")
    filters = dict(bilinear=Image.BILINEAR, bicubic=Image.BICUBIC, nearest=Image.NEAREST)
    for size, share, method in [
        (224, 0.9, "bicubic"),
        (224, 0.875, "bilinear"),
        (160, 0.95, "bicubic"),
        (97, 1.0, "bicubic"),
        (299, 0.9, "nearest"),
    ]:
        recipe = Recipe(share, False, method, floor=True, truncate=True)
        ours = load_images([str(tmp_path / "x.png")], parse(recipe.spec((size, size))))[0]
        short, (width, height) = math.floor(size / share), photo.size
        long = int(short * max(photo.size) / min(photo.size))
        sides = (short, long) if width <= height else (long, short)
        left, top = (int(round((side - size) / 2.0)) for side in sides)
        theirs = photo.resize(sides, filters[method]).crop((left, top, left + size, top + size))
        np.testing.assert_array_equal(ours, np.asarray(theirs), err_msg=f"{size} {method}")


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


FAST = dict(
    image_processor_type="DINOv3ViTImageProcessorFast",
    do_rescale=True,
    rescale_factor=1 / 255,
    do_resize=True,
    size=dict(height=96, width=96),
    resample=2,
    do_center_crop=None,
    crop_size=None,
    do_normalize=True,
    image_mean=MEAN,
    image_std=STD,
    device=None,
    disable_grouping=None,
)


def test_a_photograph_for_dinov3_is_resized_as_torch_does(photograph):
    """Its processor, which needs torchvision, resizes numbers, not bytes."""
    torch = pytest.importorskip("torch")
    found = recipe({"preprocessor_config.json": FAST}, "Hugging Face DINOv3")
    pp = parse(found.spec((96, 96)))
    ours = load_images([str(photograph)], pp)[0] / 255
    pixels = torch.from_numpy(np.array(Image.open(photograph))).permute(2, 0, 1)[None] / 255
    options = dict(mode="bilinear", align_corners=False, antialias=True)
    theirs = torch.nn.functional.interpolate(pixels, (96, 96), **options)[0].permute(1, 2, 0)
    levels = np.abs(ours - theirs.numpy()) * 255
    assert levels.mean() < 0.5 and levels.max() <= 2
    assert (pp.mean, pp.std) == (tuple(MEAN), tuple(STD))


def test_a_processor_of_images_and_texts_holds_that_of_images():
    """transformers 5 writes one file for both."""
    files = {"processor_config.json": dict(processor_class="CLIPProcessor", image_processor=FAST)}
    assert recipe(files).spec((96, 96)) == recipe({"preprocessor_config.json": FAST}).spec((96, 96))


@pytest.mark.parametrize(
    "kind, spec",
    [
        (
            "CLIPFeatureExtractor",
            "resize_small(224, method='bicubic', antialias=True, truncate=True)|central_crop(224)",
        ),
        ("SiglipImageProcessor", "resize(224, method='bicubic', antialias=True)"),
        ("BeitImageProcessor", "resize(224, method='bicubic', antialias=True)"),
    ],
)
def test_a_silent_file_means_the_defaults_of_its_class(kind, spec):
    """transformers' own defaults."""
    given = dict(feature_extractor_type=kind)
    found = recipe({"preprocessor_config.json": given}, "Hugging Face SigLIP")
    assert found.spec((224, 224)).startswith(spec)
    usual = getattr(transformers, kind.replace("FeatureExtractor", "ImageProcessor"))()
    np.testing.assert_allclose(found.mean, usual.image_mean)
    np.testing.assert_allclose(found.std, usual.image_std)
    assert found.size == (224, 224)


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


@pytest.mark.parametrize("format", ["huggingface", "timm"])
def test_an_export_says_what_the_other_program_prepares_differently(format, photograph, tmp_path):
    """Logits agree where nothing is said; without antialias they differ, and this is said."""
    from vit_jax.weights import read, write

    weights = small_weights(gelu="erf", image_size=32)
    for i, (pp, quiet) in enumerate(
        [
            ("resize(32, antialias=True)|value_range(-1, 1)", True),
            ("resize(32, method='bicubic', antialias=True)|normalize", True),
            ("resize_small(36, 'bicubic', antialias=True)|central_crop(32)|normalize", False),
            ("resize(32)|value_range(-1, 1)", False),
            ("resize_small(36)|central_crop(32)|value_range(-1, 1)", False),
            ("random_crop(32, padding=4)|flip_lr|value_range(-1, 1)", False),
        ]
    ):
        directory = tmp_path / str(i)
        lines = write(dataclasses.replace(weights, pp=pp), directory, format=format)
        said = [line for line in lines if "logits will differ" in line]
        assert bool(said) != quiet and all(pp in line for line in said)
        if not quiet:
            continue
        file = directory / "config.json"
        document = json.loads(file.read_text())
        document.pop("vit_jax", None)  # as the other program reads it
        file.write_text(json.dumps(document))
        files = [str(photograph)]
        ours, theirs = (load_images(files, parse(each)) for each in (pp, read(directory).pp))
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("format", ["huggingface", "timm"])
@pytest.mark.parametrize(
    "pp, step",
    [
        ("crop_border(2)|resize(32, antialias=True)", "crop_border"),
        ("central_crop(64)|resize(32, antialias=True)", "before it crops"),
        ("resize(64, antialias=True)|resize(32, antialias=True)", "resize"),
    ],
)
def test_steps_that_the_other_program_lacks_are_refused(pp, step, format, tmp_path):
    from vit_jax.weights import write

    weights = dataclasses.replace(small_weights(gelu="erf", image_size=32), pp=pp)
    with pytest.raises(InputError, match=step):
        write(weights, tmp_path / "d", format=format)
    assert not (tmp_path / "d" / "model.safetensors").exists()
