"""The operations, in TensorFlow and in NumPy, against Pillow, closed forms and each other."""

import numpy as np
import pytest
from PIL import Image

from vit_jax.data import order
from vit_jax.data._tf import tf
from vit_jax.data.batches.memory import to_rgb
from vit_jax.data.ops import color, decode, flip, geometry
from vit_jax.data.ops import op as ops
from vit_jax.data.ops.preprocess import parse
from vit_jax.errors import InputError


def apply(op: ops.Op, image: np.ndarray, words=(0, 0)) -> np.ndarray:
    return op.tensorflow(tf.constant(image), tf.constant(words, tf.uint32)).numpy()


def many_words(count: int) -> np.ndarray:
    return order.words(np.zeros(count, int), np.arange(count), seed=0, count=1)[:, 0]


@pytest.mark.parametrize("size", [(20, 31), (90, 131), (60, 90)])
@pytest.mark.parametrize("method", ["bilinear", "bicubic", "nearest"])
def test_resize_with_antialias_is_pillows(method, size, photo):
    found = apply(geometry.Resize(size, method, antialias=True), photo)
    pillows = getattr(Image.Resampling, method.upper())
    expected = np.asarray(Image.fromarray(photo).resize(size[::-1], pillows))
    np.testing.assert_array_equal(found, expected)


def test_resize_on_the_device_rounds_as_pillow():
    """Also between the two axes; ties may fall to the other side."""
    import jax.numpy as jnp
    from skimage import data

    image = data.coffee()[:201, :333]
    found = geometry.Resize((77, 130), antialias=True).batched(jnp.asarray(image[None]), None, jnp)
    expected = np.asarray(Image.fromarray(image).resize((130, 77), Image.BILINEAR))
    levels = np.abs(np.asarray(found[0], int) - expected)
    assert levels.max() <= 1 and (levels > 0).mean() < 1e-3


def test_resize_bilinear_is_linear_interpolation():
    ramp = np.arange(0, 80, 10, dtype=np.uint8)
    image = np.broadcast_to(ramp[None, :, None], (8, 8, 3))
    found = apply(geometry.Resize((8, 16)), image)[0, :, 0]
    centres = (np.arange(16) + 0.5) / 2 - 0.5
    expected = np.interp(centres, np.arange(8), ramp)
    assert np.abs(found - expected).max() <= 0.5


def test_resize_small_by_area_is_the_mean_of_blocks(photo):
    found = apply(geometry.ResizeSmall(20), photo)
    expected = photo.reshape(20, 3, 30, 3, 3).mean((1, 3))
    assert found.shape == (20, 30, 3)
    assert np.abs(found - expected).max() <= 0.51


@pytest.mark.parametrize("shape", [(30, 47), (47, 30), (33, 33)])
def test_resize_small_covers_the_size(shape):
    image = np.zeros((*shape, 3), np.uint8)
    size = apply(geometry.ResizeSmall((20, 25)), image).shape[:2]
    assert size == geometry.ResizeSmall((20, 25)).output_size(shape)
    assert size[0] == 20 or size[1] == 25
    assert size[0] >= 20 and size[1] >= 25


def test_central_crop(photo):
    np.testing.assert_array_equal(apply(geometry.CentralCrop((20, 30)), photo), photo[20:40, 30:60])


def test_a_crop_that_does_not_fit_says_so(photo):
    with pytest.raises(tf.errors.InvalidArgumentError, match="smaller than central_crop"):
        apply(geometry.CentralCrop(64), photo)


def test_pad(photo):
    expected = np.pad(photo, ((2, 2), (2, 2), (0, 0)))
    np.testing.assert_array_equal(apply(geometry.Pad(2), photo), expected)


def test_random_crops_are_parts_of_the_padded_image_and_reach_everywhere():
    image = np.arange(36, dtype=np.uint8).reshape(6, 6, 1).repeat(3, 2)
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    windows = {padded[y : y + 5, x : x + 5].tobytes(): (y, x) for y in range(4) for x in range(4)}
    op = geometry.RandomCrop(5, padding=1)
    corners = [windows[apply(op, image, words).tobytes()] for words in many_words(200)]
    assert set(corners) == {(y, x) for y in range(4) for x in range(4)}


@pytest.mark.parametrize("op, axis", [(flip.FlipLeftRight(), 1), (flip.FlipUpDown(), 0)])
def test_flips_happen_half_the_time(op, axis, photo):
    small = photo[:4, :4]
    found = [apply(op, small, words) for words in many_words(400)]
    flipped = [np.array_equal(image, np.flip(small, axis)) for image in found]
    same = [np.array_equal(image, small) for image in found]
    assert all(f != s for f, s in zip(flipped, same))
    assert 0.42 < np.mean(flipped) < 0.58


def test_inception_boxes_have_the_areas_and_ratios_asked_for():
    op = geometry.InceptionCrop(224, area_min=20, area_max=60)
    shape = tf.constant([375, 500, 3])
    boxes = np.array([op.box(shape, tf.constant(w)) for w in many_words(400)])
    y, x, h, w = boxes.T
    assert np.all((y >= 0) & (x >= 0) & (y + h <= 375) & (x + w <= 500))
    area, ratio = h * w / (375 * 500), w / h
    assert 0.19 < area.min() < 0.25 and 0.5 < area.max() < 0.61
    assert 0.74 < ratio.min() < 0.8 and 1.28 < ratio.max() < 1.34
    assert len(set(map(tuple, boxes))) > 390


def test_inception_crop_is_a_resized_box(photo):
    op, words = geometry.InceptionCrop((20, 24)), many_words(3)[2]
    y, x, h, w = op.box(tf.constant(photo.shape), tf.constant(words)).numpy()
    expected = apply(geometry.Resize((20, 24)), photo[y : y + h, x : x + w])
    np.testing.assert_array_equal(apply(op, photo, words), expected)


def test_decoding_fused_with_the_crop_gives_the_same(photo, encode):
    # A crop inside the decoder differs by chroma at its edges and a faster transform.
    preprocess, encoded = parse("inception_crop(24)"), tf.constant(encode(photo, "JPEG"))
    pixels = decode.decode(encoded)
    for words in many_words(10)[:, None]:
        fused = preprocess.encoded(encoded, tf.constant(words))
        apart = preprocess.pixels(pixels, tf.constant(words))
        assert np.abs(fused.numpy().astype(int) - apart.numpy()).mean() < 2


@pytest.mark.parametrize(
    "text",
    [
        "random_crop(28, padding=4)|flip_lr",
        "random_crop((20, 12))|flip_ud|pad(3)",
        "resize(40)|random_crop(32)",
        "resize((17, 45), antialias=True)",
        "resize(56, method='nearest')",
        "pad(4)|central_crop(30)",
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_batches_in_numpy_have_the_numbers_of_single_images(text, channels):
    images = np.random.default_rng(0).integers(0, 256, (16, 28, 28, channels), np.uint8)
    preprocess = parse(text)
    assert preprocess.has_batched
    count = preprocess.num_random
    words = order.words(np.zeros(16, int), np.arange(16), seed=1, count=count)
    batch = to_rgb(preprocess.batched(images, words))
    single = [
        preprocess.pixels(tf.constant(image), tf.constant(word))
        for image, word in zip(images, words)
    ]
    tolerance = 1 if "resize" in text else 0  # sums of floats in another order
    assert np.abs(batch.astype(int) - np.stack(single)).max() <= tolerance
    assert batch.shape[1:3] == preprocess.output_size((28, 28))


def test_crop_border_takes_a_frame_away(photo):
    framed = np.pad(photo, ((2, 2), (2, 2), (0, 0)), constant_values=255)
    np.testing.assert_array_equal(apply(geometry.CropBorder(2), framed), photo)
    np.testing.assert_array_equal(apply(geometry.CropBorder(0), photo), photo)
    assert geometry.CropBorder(2).output_size((64, 94)) == (60, 90)
    with pytest.raises(InputError, match="nothing would be left"):
        parse("resize(4)|crop_border(2)")


def test_multiply_stops_at_white():
    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    found = apply(color.Multiply(3), image)
    np.testing.assert_array_equal(found, np.minimum(3 * image.astype(int), 255))


def test_operations_without_a_form_in_numpy_are_known():
    assert not parse("inception_crop(8)").has_batched
    assert not parse("resize(8, method='bicubic')").has_batched


def test_same_words_same_image(photo):
    words = many_words(2)
    op = geometry.InceptionCrop(16)
    np.testing.assert_array_equal(apply(op, photo, words[0]), apply(op, photo, words[0]))
    assert not np.array_equal(apply(op, photo, words[0]), apply(op, photo, words[1]))
