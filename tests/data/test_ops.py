import numpy as np
import pytest

from vit_jax.data.ops import flip, geometry
from vit_jax.data.ops.preprocess import parse
from vit_jax.errors import InputError


def test_a_pipeline_is_parsed_in_order():
    parsed = parse("decode|inception_crop(224)|flip_lr|value_range(-1, 1)")
    assert parsed.ops == (geometry.InceptionCrop(224), flip.FlipLeftRight())
    assert parsed.image_size == (224, 224)
    assert parsed.num_random == 2


@pytest.mark.parametrize(
    "text, mean, std",
    [
        ("", 0, 1),
        ("decode|value_range(0, 1)", 0, 1),
        ("decode|value_range(-1, 1)", 0.5, 0.5),
        ("decode|value_range(low=-2, high=2)", 0.5, 0.25),
        ("decode|normalize(0.4, 0.2)", 0.4, 0.2),
    ],
)
def test_mean_and_std_give_the_range(text, mean, std):
    parsed = parse(text)
    np.testing.assert_allclose(parsed.mean, (mean,) * 3)
    np.testing.assert_allclose(parsed.std, (std,) * 3)


def test_value_range_maps_the_ends_of_bytes_to_the_ends_given():
    parsed = parse("value_range(-3, 5)")
    ends = (np.array([0, 255])[:, None] / 255 - parsed.mean) / parsed.std
    np.testing.assert_allclose(ends, [[-3] * 3, [5] * 3])


@pytest.mark.parametrize(
    "text",
    [
        "decode",
        "decode|resize(32)",
        "decode|resize((32, 48), method='area', antialias=True)|normalize((0.1, 0.2, 0.3), 1)",
        "decode|random_crop(32, padding=4)|flip_lr|flip_ud|value_range(-1, 1)",
        "decode|inception_crop(64, area_min=30, ratio_max=1.5)|pad(2)|central_crop(60)",
        "decode|resize_small(256)|central_crop(224)",
    ],
)
def test_text_of_a_pipeline_parses_to_the_same(text):
    parsed = parse(text)
    assert parse(str(parsed)) == parsed


def test_squares_are_one_number():
    assert parse("resize((32, 32))") == parse("resize(32)")


@pytest.mark.parametrize(
    "text, expected",
    [
        ("inception_crop(224)|flip_lr|value_range(-1, 1)",
         "decode|resize_small(256)|central_crop(224)|value_range(-1, 1)"),
        ("resize(448)|random_crop(384)|flip_lr", "decode|resize(448)|central_crop(384)"),
        ("random_crop(32, padding=4)", "decode|pad(4)|central_crop(32)"),
        ("resize((48, 96))", "decode|resize((48, 96))"),
    ],
)  # fmt: skip
def test_evaluation_has_no_randomness(text, expected):
    found = parse(text).deterministic()
    assert found == parse(expected)
    assert found.num_random == 0
    assert found.image_size == parse(text).image_size


@pytest.mark.parametrize(
    "text, size, expected",
    [
        ("flip_lr", (20, 30), (20, 30)),
        ("pad(3)", (20, 30), (26, 36)),
        ("resize_small(40)", (20, 30), (40, 60)),
        ("resize_small((10, 30))", (20, 30), (20, 30)),
        ("resize_small(40)", None, None),
        ("resize_small(40)|central_crop((40, 20))", None, (40, 20)),
    ],
)
def test_output_size(text, size, expected):
    assert parse(text).output_size(size) == expected


@pytest.mark.parametrize(
    "text, message",
    [
        ("decode|resize_smal(3)", "did you mean 'resize_small'"),
        ("resize(sz=3)", "did you mean 'size'"),
        ("resize(0)", "size is 0"),
        ("resize(2.5)", "positive int"),
        ("resize(True)", "positive int"),
        ("resize((1, 2, 3))", "positive int"),
        ("resize(8, method='cubic')", "method is 'cubic'"),
        ("resize(8, antialias=1)", "antialias is 1"),
        ("resize()", "missing"),
        ("resize(1, 'area', True, 4)", "too many"),
        ("resize(__import__('os'))", "plain numbers"),
        ("resize(**{'size': 3})", "no argument"),
        ("(lambda: 3)()", "no operation"),
        ("os.system('true')", "no operation"),
        ("3", "no operation"),
        ("decode|", "cannot read"),
        ("decode||flip_lr", "cannot read"),
        ("decode resize(3)", "cannot read"),
        ("flip_lr|decode", "decode must come first"),
        ("value_range(0, 1)|flip_lr", "must come last"),
        ("value_range(1, 1)", "other than low"),
        ("value_range(0)", "missing"),
        ("normalize(0.5, 0)", "positive"),
        ("normalize((1, 2), 1)", "a number or three"),
        ("inception_crop(8, area_min=0)", "area_min is 0; wanted a number from 0.01 to 100"),
        ("inception_crop(8, area_max=120)", "area_max is 120"),
        ("inception_crop(8, area_min=50, area_max=20)", "at most area_max"),
        ("random_crop(8, padding=-1)", "padding is -1"),
        ("resize(20)|random_crop(32)", "20x20"),
        ("resize(20)|central_crop(32)", "20x20"),
    ],
)
def test_wrong_text_is_refused_in_a_line(text, message):
    with pytest.raises(InputError, match=message) as error:
        parse(text)
    assert "\n" not in str(error.value)
