"""Each operation of RandAugment against Pillow, or its closed form."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from vit_jax.data import order
from vit_jax.data._tf import tf
from vit_jax.data.ops import color, randaugment
from vit_jax.data.ops import op as ops
from vit_jax.data.ops.preprocess import parse
from vit_jax.errors import InputError

FACTORS = [0.1, 0.5, 1.0, 1.9, 3.7]


@pytest.fixture(scope="module")
def dull(photo) -> np.ndarray:
    """A picture without extremes, whose channels differ."""
    return (photo * [0.5, 0.7, 0.2] + [30, 20, 90]).astype(np.uint8)


def close(found: tf.Tensor, expected, tolerance: int = 0):
    found, expected = found.numpy().astype(int), np.asarray(expected).astype(int)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance


def test_autocontrast(dull):
    close(randaugment.autocontrast(dull), ImageOps.autocontrast(Image.fromarray(dull)))
    assert randaugment.autocontrast(dull).numpy().max() == 255
    flat = np.full((4, 4, 3), 77, np.uint8)
    close(randaugment.autocontrast(flat), flat)


def test_equalize(dull, photo):
    for image in (dull, photo, np.full((40, 40, 3), 9, np.uint8), photo[:5, :5]):
        close(randaugment.equalize(image), ImageOps.equalize(Image.fromarray(image)))


def test_invert(photo):
    close(randaugment.invert(tf.constant(photo)), ImageOps.invert(Image.fromarray(photo)))


@pytest.mark.parametrize("bits", [1, 4, 6, 8])
def test_posterize(bits, photo):
    close(randaugment.posterize(photo, bits), ImageOps.posterize(Image.fromarray(photo), bits))


@pytest.mark.parametrize("threshold", [0, 100, 128, 256, 384])
def test_solarize(threshold, photo):
    expected = ImageOps.solarize(Image.fromarray(photo), threshold)
    close(randaugment.solarize(photo, threshold), expected)


@pytest.mark.parametrize("addition", [0, 110, 220])
def test_solarize_add(addition, photo):
    expected = np.where(photo < 128, np.minimum(photo.astype(int) + addition, 255), photo)
    close(randaugment.solarize_add(photo, addition), expected)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("name", ["Color", "Contrast", "Brightness", "Sharpness"])
def test_enhancements(name, factor, photo):
    expected = getattr(ImageEnhance, name)(Image.fromarray(photo)).enhance(factor)
    # Pillow rounds products of single precision here and there the other way.
    close(getattr(randaugment, name.lower())(photo, factor), expected, tolerance=1)


def same_pixels(found: tf.Tensor, expected: Image.Image, share: float = 0.999):
    """Equal but for pixels that lie on the border between two, within rounding."""
    equal = (found.numpy() == np.asarray(expected)).all(-1)
    assert equal.mean() >= share


GREY = (128, 128, 128)


@pytest.mark.parametrize("degrees", [-60, -17.5, 0, 30, 44])
def test_rotate(degrees, photo):
    expected = Image.fromarray(photo).rotate(degrees, fillcolor=GREY)
    same_pixels(randaugment.rotate(photo, degrees), expected)


@pytest.mark.parametrize("level", [-0.61, -0.3, 0.13, 0.45])
def test_shears(level, photo):
    image = Image.fromarray(photo)
    for name, matrix in (
        ("shear_x", (1, level, 0, 0, 1, 0)),
        ("shear_y", (1, 0, 0, level, 1, 0)),
    ):
        expected = image.transform(image.size, Image.AFFINE, matrix, fillcolor=GREY)
        same_pixels(getattr(randaugment, name)(photo, level), expected)


@pytest.mark.parametrize("pixels", [-20, 0, 7, 200])
def test_translations(pixels, photo):
    image = Image.fromarray(photo)
    height, width = photo.shape[:2]
    for name, side, matrix in (
        ("translate_x", width, (1, 0, pixels, 0, 1, 0)),
        ("translate_y", height, (1, 0, 0, 0, 1, pixels)),
    ):
        expected = image.transform(image.size, Image.AFFINE, matrix, fillcolor=GREY)
        same_pixels(getattr(randaugment, name)(photo, pixels / side), expected, share=1)


def test_cutout():
    image = np.full((50, 100, 3), 7, np.uint8)
    found = randaugment.cutout(image, 0.1, tf.constant([0.5, 0.25])).numpy()
    expected = image.copy()
    expected[20:30, 15:35] = 128
    np.testing.assert_array_equal(found, expected)
    corner = randaugment.cutout(image, 0.1, tf.constant([0.0, 0.0])).numpy()
    assert (corner == 128).all(-1).sum() == 5 * 10


def test_the_list_is_that_of_the_papers_code():
    names = (
        "AutoContrast Equalize Invert Rotate Posterize Solarize Color Contrast Brightness "
        "Sharpness ShearX ShearY TranslateX TranslateY Cutout SolarizeAdd"
    )
    assert list(randaugment.operations(10)) == names.split()


@pytest.mark.parametrize("magnitude", [0, 10, 15, 20])
def test_strengths_follow_the_magnitude(magnitude, photo):
    square = np.asarray(Image.fromarray(photo).resize((224, 224)))
    operations = randaugment.operations(magnitude)
    share, numbers = magnitude / 10, tf.constant([0.9, 0.3, 0.6])
    image = Image.fromarray(square)
    same_pixels(
        operations["Rotate"](square, numbers), image.rotate(30 * share, fillcolor=GREY), 0.995
    )
    shifted = image.transform(
        (224, 224), Image.AFFINE, (1, 0, 100 * share, 0, 1, 0), fillcolor=GREY
    )
    same_pixels(operations["TranslateX"](square, numbers), shifted)
    enhanced = ImageEnhance.Color(image).enhance(1.8 * share + 0.1)
    close(operations["Color"](square, numbers), enhanced, tolerance=1)
    bits = {0: 1, 10: 4, 15: 6, 20: 8}[magnitude]
    close(operations["Posterize"](square, numbers), ImageOps.posterize(image, bits))
    erased = (operations["Cutout"](np.zeros_like(square), numbers).numpy() == 128).all(-1).sum()
    (low_y, low_x), (high_y, high_x) = [
        [np.clip(int(u * 224) + side * int(40 * share), 0, 224) for u in (0.3, 0.6)]
        for side in (-1, 1)
    ]
    assert erased == (high_y - low_y) * (high_x - low_x)


# What the code of AugReg computes where it differs from Pillow, written out in NumPy.


def published(name, image, magnitude, sign=0.9):
    operation = randaugment.operations(magnitude, published=True)[name]
    return operation(tf.constant(image), tf.constant([sign, 0.3, 0.6])).numpy().astype(int)


@pytest.mark.parametrize("magnitude, from_value", [(5, 128), (9, 230), (10, 0), (15, 128), (20, 0)])
def test_the_published_solarize_wraps_its_threshold(magnitude, from_value, photo):
    expected = np.where(photo < from_value, photo, 255 - photo)
    np.testing.assert_array_equal(published("Solarize", photo, magnitude), expected)


@pytest.mark.parametrize("sides, grey", [((224, 224), 196), ((64, 100), 25), ((300, 300), 255)])
def test_the_published_contrast_goes_from_the_number_of_pixels(sides, grey, photo):
    image = np.asarray(Image.fromarray(photo).resize(sides[::-1]))
    factor = np.float32(1.9)
    expected = np.clip(grey + factor * (image.astype(np.float32) - grey), 0, 255).astype(int)
    assert np.abs(published("Contrast", image, 10) - expected).max() <= 1


@pytest.mark.parametrize("sign", [0.1, 0.9])
@pytest.mark.parametrize("name", ["ShearX", "ShearY"])
def test_the_published_shear_is_about_the_centre_of_the_first_pixel(name, sign, photo):
    level = 0.3 if sign > 0.5 else -0.3
    rows, columns = np.indices(photo.shape[:2])

    def nearest(x):
        return (np.sign(x) * np.floor(np.abs(np.float32(x)) + 0.5)).astype(int)

    if name == "ShearX":
        columns = nearest(columns + level * rows)
    else:
        rows = nearest(rows + level * columns)
    inside = (rows >= 0) & (columns >= 0) & (rows < len(photo)) & (columns < photo.shape[1])
    expected = np.full(photo.shape, 128)
    expected[inside] = photo[rows[inside], columns[inside]]
    found = published(name, photo, 10, sign)
    # In float32 a few halves are rounded the other way.
    assert (found == expected).all(-1).mean() >= 0.97
    pillow = randaugment.operations(10)[name](tf.constant(photo), tf.constant([sign, 0.3, 0.6]))
    assert (pillow.numpy() == expected).all(-1).mean() < 0.95


def test_the_published_sharpness_rounds_down(photo):
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]])
    pixels = photo.astype(int)
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (3, 3), axis=(0, 1))
    smooth = (windows * kernel).sum((-1, -2)) // 13
    expected = np.clip(smooth + 1.9 * (pixels[1:-1, 1:-1] - smooth), 0, 255)
    found = published("Sharpness", photo, 10)
    assert np.abs(found[1:-1, 1:-1] - expected).max() <= 1 + 1e-3
    assert np.abs(found[1:-1, 1:-1] - expected.astype(int)).mean() < 0.05


def test_augreg_and_better_plain_vit_take_the_published_operations():
    assert parse("augreg('light2')").ops[0].randaugment.published
    assert not parse("randaug(2, 10)").ops[0].published


def words(count: int) -> np.ndarray:
    return order.words(np.zeros(count, int), np.arange(count), seed=0, count=1)[:, 0]


def apply_many(op: ops.Op, image: np.ndarray, count: int) -> np.ndarray:
    compute = tf.function(lambda words: op.tensorflow(tf.constant(image), words))
    return np.stack([compute(tf.constant(w)) for w in words(count)])


def test_randaugment_draws_every_operation_equally_often(photo):
    small = photo[:20, :30]
    expected = {}
    image = tf.constant(small)
    for name, operation in randaugment.operations(10).items():
        for sign in (0.1, 0.9):
            numbers = tf.constant([sign, 0, 0])
            if name != "Cutout":
                expected[operation(image, numbers).numpy().tobytes()] = name
    found = apply_many(color.RandAugment(1, 10), small, 640)
    names = [expected.get(image.tobytes(), "Cutout") for image in found]
    counts = {name: names.count(name) for name in set(names)}
    # One of 640 / 16 = 40, +- 4 standard deviations.
    assert len(counts) == 16
    assert all(15 <= count <= 65 for count in counts.values())


def test_layers_are_drawn_independently(photo):
    twice = apply_many(color.RandAugment(2, 10), photo, 40)
    once = apply_many(color.RandAugment(1, 10), photo, 40)
    assert len({image.tobytes() for image in twice}) > len({image.tobytes() for image in once}) / 2
    np.testing.assert_array_equal(apply_many(color.RandAugment(0, 10), photo, 1)[0], photo)
    assert twice.shape == (40, *photo.shape)


@pytest.mark.parametrize(
    "level, layers, magnitude, mixup",
    [
        ("none", 0, 0, 0),
        ("light1", 2, 0, 0),
        ("light2", 2, 10, 0.2),
        ("medium1", 2, 15, 0.2),
        ("medium2", 2, 15, 0.5),
        ("strong1", 2, 20, 0.5),
        ("strong2", 2, 20, 0.8),
    ],
)
def test_levels_of_augreg(level, layers, magnitude, mixup):
    # Steiner et al. 2106.10270, section 3.
    assert color.AUGREG[level] == (layers, magnitude, mixup)
    (named,) = parse(f"augreg('{level}')").ops
    assert named.randaugment == color.RandAugment(layers, magnitude, published=True)


def test_a_level_is_its_randaugment(photo):
    np.testing.assert_array_equal(
        apply_many(color.AugReg("light2"), photo, 3),
        apply_many(color.RandAugment(2, 10, published=True), photo, 3),
    )


def test_color_jitter_of_one_kind_is_pillows(photo):
    for field, name in (
        ("brightness", "Brightness"), ("contrast", "Contrast"), ("saturation", "Color")
    ):  # fmt: skip
        op = color.ColorJitter(**{field: 0.4})
        factors = []
        for image in apply_many(op, photo, 20):
            enhance = getattr(ImageEnhance, name)(Image.fromarray(photo)).enhance
            grid = np.linspace(0.6, 1.4, 161)
            errors = [np.abs(image.astype(int) - enhance(f)).mean() for f in grid]
            assert min(errors) < 0.6
            factors.append(grid[np.argmin(errors)])
        assert min(factors) < 0.75 and max(factors) > 1.2 and min(factors) > 0.59


def test_hue_is_that_of_colorsys(photo):
    import colorsys

    found = color.turn_hue(tf.constant(photo), tf.constant(0.2)).numpy()
    for y, x in ((0, 0), (20, 30), (59, 89)):
        hue, saturation, value = colorsys.rgb_to_hsv(*photo[y, x] / 255.0)
        expected = colorsys.hsv_to_rgb((hue + 0.2) % 1, saturation, value)
        assert np.abs(found[y, x] - np.array(expected) * 255).max() <= 1


def test_color_jitter_changes_its_order_and_nothing_at_zero(photo):
    found = apply_many(color.ColorJitter(0.4, 0.4, 0.4, 0.1), photo, 10)
    assert len({image.tobytes() for image in found}) == 10
    np.testing.assert_array_equal(apply_many(color.ColorJitter(), photo, 1)[0], photo)


def test_random_erasing_has_the_areas_and_probability_asked_for():
    image = np.zeros((80, 100, 3), np.uint8)
    op = color.RandomErasing(probability=0.6, area_min=10, area_max=30, value=255)
    found = (apply_many(op, image, 300) == 255).all(-1)
    erased = found.any((1, 2))
    assert 0.5 < erased.mean() < 0.7
    areas = found[erased].mean((1, 2))
    assert 0.09 < areas.min() < 0.13 and 0.26 < areas.max() < 0.32
    for mask in found[erased]:  # one solid box
        rows, columns = mask.any(1), mask.any(0)
        assert mask.sum() == rows.sum() * columns.sum()
    assert found.any(0).mean() > 0.95  # anywhere


@pytest.mark.parametrize(
    "text, message",
    [
        ("randaug(2)", "missing"),
        ("randaug(2.5, 10)", "layers is 2.5"),
        ("randaug(2, 40)", "magnitude is 40"),
        ("augreg('medium')", "did you mean 'medium"),
        ("color_jitter(hue=0.7)", "hue is 0.7"),
        ("color_jitter(brightness=-1)", "brightness is -1"),
        ("random_erasing(probability=2)", "probability is 2"),
        ("random_erasing(area_min=50)", "at most area_max"),
        ("random_erasing(value=300)", "value is 300"),
    ],
)
def test_wrong_arguments(text, message):
    with pytest.raises(InputError, match=message):
        parse(text)


def test_augmentation_is_dropped_in_evaluation():
    text = "resize(8)|randaug(2, 10)|augreg('light2')|color_jitter(0.4)|random_erasing()"
    assert parse(text).deterministic() == parse("resize(8)")
