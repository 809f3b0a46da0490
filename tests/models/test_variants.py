import math

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import vit_jax
from vit_jax import InputError
from vit_jax.models import create_model, list_models, model_config, split
from vit_jax.models.variants import canonical_name

# Parameters without a head at 224 and 384 pixels. A head of K classes adds (width + 1) K.
HEADLESS = {
    "ViT-Ti/16": (5_524_416, 5_597_376),
    "ViT-S/16": (21_665_664, 21_811_584),
    "ViT-S/32": (22_493_952, 22_530_432),
    "ViT-B/8": (85_807_872, 86_975_232),
    "ViT-B/16": (85_798_656, 86_090_496),
    "ViT-B/32": (87_455_232, 87_528_192),
    "ViT-L/16": (303_301_632, 303_690_752),
    "ViT-L/32": (305_510_400, 305_607_680),
    "ViT-H/14": (630_764_800, 631_370_240),
    "ViT-g/14": (1_011_202_432, 1_011_868_416),
    "ViT-G/14": (1_842_775_680, 1_843_562_752),
}
WITH_1000_CLASSES = {
    "ViT-Ti/16": (5_717_416, 5_790_376),
    "ViT-S/16": (22_050_664, 22_196_584),
    "ViT-S/32": (22_878_952, 22_915_432),
    "ViT-B/8": (86_576_872, 87_744_232),
    "ViT-B/16": (86_567_656, 86_859_496),
    "ViT-B/32": (88_224_232, 88_297_192),
    "ViT-L/16": (304_326_632, 304_715_752),
    "ViT-L/32": (306_535_400, 306_632_680),
    "ViT-H/14": (632_045_800, 632_651_240),
    "ViT-g/14": (1_012_611_432, 1_013_277_416),
    "ViT-G/14": (1_844_440_680, 1_845_227_752),
}


def count(name, **options):
    """Number of parameters; shapes alone, no memory."""
    params = split(nnx.eval_shape(lambda: create_model(name, **options)))[1]
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("name", HEADLESS)
def test_parameter_counts_of_the_paper_variants(name):
    sizes = (224, 378 if name.endswith("/14") else 384)  # 27 x 27 patches of 14
    assert tuple(count(name, image_size=s, num_classes=0) for s in sizes) == HEADLESS[name]
    assert tuple(count(name, image_size=s) for s in sizes) == WITH_1000_CLASSES[name]


_DINOV3 = dict(
    posemb="none", rotary="centred", registers=4, layer_scale=1.0, num_classes=0, norm_eps=1e-5
)
_SBB = dict(head="gap", registers=4, layer_scale=1e-5, image_size=256, posemb_class_slot=False)
# Parameters in millions by timm's results/*.csv (timm leaves out biases that are 0 in DINOv3).
PUBLISHED = {
    "ViT-S+/16": (_DINOV3, 28.7),
    "ViT-H+/16": (_DINOV3, 840.5),
    "ViT-7B/16": (_DINOV3 | dict(qkv_bias="none"), 6716.0),
    "ViT-M/16": (_SBB, 38.88),
    "ViT-So400m/14": (dict(head="map", class_token=False, num_classes=0), 427.7),
    "ViT-So400m/16": (dict(head="map", class_token=False, num_classes=0, image_size=256), 427.9),
    "ViT-Giant2/14": (dict(layer_scale=1.0, num_classes=0, image_size=518), 1136.5),
    "ViT-gopt/16": (dict(head="map", class_token=False, num_classes=0, image_size=256), 1163.2),
    "ViT-So150m/16": (_SBB, 134.13),
    "ViT-So150m2/16": (_SBB | dict(qkv_bias="none"), 136.06),
    "ViT-Wee/16": (_SBB, 13.42),
    "ViT-Little/16": (_SBB, 22.52),
    "ViT-MediumD/16": (_SBB, 64.11),
    "ViT-Betwixt/16": (_SBB, 60.4),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_of_published_sizes(name):
    options, millions = PUBLISHED[name]
    assert count(name, **options) / 1e6 == pytest.approx(millions, abs=0.06 + millions * 1e-4)


@pytest.mark.parametrize(
    "name, options, expected",
    [
        ("ViT-H/14", dict(image_size=518, num_classes=0), 632_189_440),
        ("ViT-L/16", dict(image_size=512, num_classes=0), 304_149_504),
        ("ViT-S/16", dict(head="gap"), 22_049_896),
        ("ViT-B/16", dict(head="gap"), 86_566_120),
        ("ViT-B/32", dict(head="gap"), 88_222_696),
        ("ViT-S/32", dict(head="gap"), 22_878_184),
    ],
)
def test_parameter_counts_at_other_sizes_and_with_gap(name, options, expected):
    assert count(name, **options) == expected


def test_options_add_their_parameters():
    plain, width, depth = count("ViT-S/16"), 384, 12
    assert count("ViT-S/16", pre_logits=-1) - plain == width * (width + 1)
    assert count("ViT-S/16", registers=4) - plain == 4 * width
    assert count("ViT-S/16", layer_scale=1e-4) - plain == 2 * depth * width
    assert count("ViT-S/16", qk_norm=True) - plain == depth * 4 * width // 6
    assert plain - count("ViT-S/16", posemb_class_slot=False) == width
    assert plain - count("ViT-S/16", posemb="none") == 197 * width


def test_position_embeddings_have_their_parameters():
    width, depth = 384, 12
    none = count("ViT-S/16", posemb="none")
    for kind, size in [
        ("learned", (1 + 196) * width),
        ("learned2d", width + (14 + 14) * width // 2),
        ("relative", (2 * 196 - 1) * width),
    ]:
        for where, times in [("stem", 1), ("layers_shared", 1), ("layers", depth)]:
            assert count("ViT-S/16", posemb=kind, posemb_where=where) - none == times * size
    assert count("ViT-S/16", posemb="sincos2d", posemb_where="layers_shared") == none


def test_axial_blocks_count_twice():
    # 12 D^2 + 13 D: four projections, an MLP of 4 D, two norms.
    block = 12 * 768**2 + 13 * 768
    assert count("Axial-ViT-B/16") == 86_566_120 + 12 * block  # B/16 with GAP
    assert count("Axial-ViT-B/32") == 88_222_696 + 12 * block


@pytest.mark.parametrize(
    "written, canonical",
    [
        ("ViT-B/16", "ViT-B/16"),
        ("vit_b16", "ViT-B/16"),
        ("vit-b/16", "ViT-B/16"),
        ("VIT_TI_16", "ViT-Ti/16"),
        ("vitl32", "ViT-L/32"),
        ("ViT-G/14", "ViT-G/14"),
        ("ViT-g/14", "ViT-g/14"),
        ("vit_g14", "ViT-g/14"),
        ("vit_G14", "ViT-G/14"),
        ("ViT-S/7", "ViT-S/7"),
        ("vit_h014", "ViT-H/14"),
        ("axial_vit_b32", "Axial-ViT-B/32"),
        ("Axial-ViT-B/8", "Axial-ViT-B/8"),
    ],
)
def test_names_people_write(written, canonical):
    assert canonical_name(written) == canonical
    assert model_config(written) == model_config(canonical)


def test_small_and_capital_g_differ():
    assert model_config("ViT-g/14").width == 1408
    assert model_config("ViT-G/14").width == 1664


@pytest.mark.parametrize(
    "written, message",
    [
        ("ViT-X/16", "unknown model 'ViT-X/16' (did you mean 'ViT-"),
        ("vit_b_", "unknown model 'vit_b_' (did you mean 'ViT-B/"),
        ("ViT-B/16x", "unknown model 'ViT-B/16x' (did you mean 'ViT-B/16'?)"),
        ("vgg", "unknown model 'vgg'; known: "),
        ("ViT-B/0", "model 'ViT-B/0': the patch size must be at least 1"),
    ],
)
def test_wrong_names_are_refused_with_the_nearest(written, message):
    with pytest.raises(InputError) as error:
        vit_jax.create_model(written)
    assert str(error.value).startswith(message)


def test_every_listed_name_is_a_model():
    assert all(canonical_name(name) == name for name in list_models())
    assert set(HEADLESS) | set(PUBLISHED) == set(list_models("ViT-*"))
    for pattern in ("ViT-*/32", "vit-*/32"):
        assert list_models(pattern) == ["ViT-S/32", "ViT-B/32", "ViT-L/32"]


def test_options_change_the_variant():
    config = model_config(
        "ViT-S/16", image_size=(32, 48), patch_size=(4, 8), depth=2, width=None, pre_logits=-1
    )
    assert (config.width, config.depth, config.pre_logits) == (384, 2, 384)
    assert config.grid == (8, 6)
    assert config.num_tokens == 49


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(droput=0.1), "unknown model option 'droput' (did you mean 'dropout'?)"),
        (dict(head="tokens"), "unknown model.head 'tokens' (did you mean 'token'?)"),
        (dict(gelu="exact"), "unknown model.gelu 'exact'"),
        (dict(remat="some"), "unknown model.remat 'some'"),
        (dict(dtype="float16"), "unknown model.dtype 'float16' (did you mean 'bfloat16'?)"),
        (dict(attention="flash"), "unknown model.attention 'flash'"),
        (dict(width=100), "model.width 100 is not divisible by its 6 heads"),
        (dict(image_size=8), "image size (8, 8) is smaller than the patch (16, 16)"),
        (
            dict(image_size=225),
            "image size 225 is not divisible by the patch size 16; use 224 or 240",
        ),
        (
            dict(image_size=(224, 100)),
            "image size 100 is not divisible by the patch size 16; use 96",
        ),
        (dict(image_size=(8, 8, 8)), "model.image_size is (8, 8, 8); give pixels or"),
        (dict(image_size=224.0), "model.image_size is 224.0; give pixels or"),
        (dict(patch_size=0), "model.patch_size is 0; give pixels or"),
        (dict(depth=0), "model.depth is 0; it must be at least 1"),
        (dict(num_heads=0), "model.num_heads is 0; it must be at least 1"),
        (dict(depth="3"), "model.depth is '3'; it must be a whole number, at least 1"),
        (dict(head=3), "model.head is 3; it must be a text in quotes"),
        (dict(dtype=32), "model.dtype is 32; it must be a text in quotes"),
        (dict(dtype=jnp.float16), "unknown model.dtype 'float16'"),
        (dict(remat=2), "model.remat is 2; it must be a text in quotes"),
        (dict(pool_prefix="yes"), "model.pool_prefix is 'yes'; it must be True or False"),
        (dict(num_classes=-1), "model.num_classes is -1; it must be at least 0"),
        (dict(pre_logits=-2), "model.pre_logits is -2; it must be at least 0"),
        (
            dict(unroll=-2),
            "model.unroll is -2; give 1 or more layers, -1: all, or 0: by the device",
        ),
        (dict(dropout=1.0), "model.dropout is 1.0; it must be at least 0 and below 1"),
        (
            dict(stochastic_depth=-0.1),
            "model.stochastic_depth is -0.1; it must be at least 0",
        ),
        (dict(attention="cudnn"), "model.attention 'cudnn' needs model.dtype 'bfloat16'"),
        (dict(posemb="sine"), "unknown model.posemb 'sine'"),
        (dict(posemb_where="layer"), "unknown model.posemb_where 'layer' (did you mean 'layers'"),
        (dict(posemb="none", posemb_where="layers"), "model.posemb_where 'layers' needs a model.p"),
        (dict(posemb="sincos2d", posemb_where="layers"), "model.posemb 'sincos2d' is fixed"),
        (dict(posemb="learned2d", width=15, num_heads=5), "posemb 'learned2d' needs an even width"),
        (dict(attention_kind="axial"), "model.attention_kind 'axial': a class token or register"),
        (
            dict(attention_kind="axial", head="gap", posemb="relative"),
            "model.attention_kind 'axial' needs another model.posemb",
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_bad_options_are_refused_in_one_line(options, message):
    with pytest.raises(InputError) as error:
        nnx.eval_shape(lambda: create_model("ViT-S/16", **options))
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name, good, bad",
    [("R+ViT-Ti/16", 64, 72), ("R26+ViT-S/32", 100, None), ("BiT-R50x1", 99, None)],
)
def test_a_resnet_pads_and_its_map_is_cut_into_patches(name, good, bad):
    """R+ViT-Ti/16 takes patches of 8 x 8 positions of a map of stride 4."""
    nnx.eval_shape(lambda: create_model(name, image_size=good))
    if bad:
        with pytest.raises(InputError, match="72 is not divisible by the patch size 32; use 64 or"):
            create_model(name, image_size=bad)
