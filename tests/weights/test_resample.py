import jax
import numpy as np
import pytest
from flax import traverse_util

from vit_jax.errors import InputError
from vit_jax.models import abstract, build_model, model_config
from vit_jax.weights.fit import fit
from vit_jax.weights.resample import METHODS, axis_weights, resample_offsets, resample_posemb

GRIDS = [
    ((14, 14), (24, 24)),
    ((14, 14), (7, 7)),
    ((6, 5), (9, 3)),
    ((7, 7), (1, 13)),
    ((1, 1), (3, 2)),
]


def _noise(grid, slots=1, width=5):
    rng = np.random.default_rng(0)
    return rng.normal(size=(1, slots + grid[0] * grid[1], width)).astype(np.float32)


@pytest.mark.parametrize("old,new", GRIDS)
def test_align_corners_equals_the_papers_zoom(old, new):
    ndimage = pytest.importorskip("scipy.ndimage")
    embedding = _noise(old)
    grid = embedding[0, 1:].reshape(*old, -1)
    expected = ndimage.zoom(grid, (new[0] / old[0], new[1] / old[1], 1), order=1)
    ours = resample_posemb(embedding, old, new, has_class_slot=True)
    np.testing.assert_array_equal(ours[:, 0], embedding[:, 0])
    np.testing.assert_allclose(ours[0, 1:].reshape(*new, -1), expected, atol=1e-5)


@pytest.mark.parametrize("old,new", GRIDS)
@pytest.mark.parametrize("method", METHODS)
def test_equals_torch(old, new, method):
    torch = pytest.importorskip("torch")
    embedding = _noise(old, slots=0)
    image = torch.from_numpy(embedding).reshape(1, *old, -1).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(
        image,
        size=new,
        mode=method.split("_")[0],
        align_corners=method.endswith("align_corners"),
        antialias=method.endswith("antialias"),
    )
    expected = expected.permute(0, 2, 3, 1).reshape(1, new[0] * new[1], -1).numpy()
    ours = resample_posemb(embedding, old, new, has_class_slot=False, method=method)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_antialias_is_part_of_the_method():
    embedding = _noise((7, 7))
    ours = [
        resample_posemb(embedding, (7, 7), (4, 5), has_class_slot=True, **options)
        for options in (dict(method="bicubic", antialias=True), dict(method="bicubic_antialias"))
    ]
    np.testing.assert_array_equal(*ours)


@pytest.mark.parametrize("method", METHODS)
def test_same_grid_is_the_identity(method):
    embedding = _noise((7, 5), slots=2)
    ours = resample_posemb(embedding, (7, 5), (7, 5), has_class_slot=2, method=method)
    np.testing.assert_array_equal(ours, embedding)
    np.testing.assert_allclose(axis_weights(7, 7, method), np.eye(7), atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_leading_positions_stay_and_dtype_too(method):
    embedding = _noise((4, 4), slots=2).astype(np.float16)
    ours = resample_posemb(embedding, (4, 4), (6, 3), has_class_slot=2, method=method)
    assert ours.shape == (1, 2 + 18, 5) and ours.dtype == np.float16
    np.testing.assert_array_equal(ours[:, :2], embedding[:, :2])


def test_wrong_input_is_named():
    with pytest.raises(InputError, match=r"\(1, 50, 5\).*14x14.*\(1, 197, width\)"):
        resample_posemb(_noise((7, 7)), (14, 14), (7, 7), has_class_slot=True)
    with pytest.raises(InputError, match="bicubi.*did you mean 'bicubic'"):
        resample_posemb(_noise((7, 7)), (7, 7), (8, 8), has_class_slot=True, method="bicubi")
    with pytest.raises(InputError, match="bilinear_align_corners_antialias"):
        resample_posemb(_noise((7, 7)), (7, 7), (8, 8), has_class_slot=True, antialias=True)


@pytest.mark.parametrize("old,new", [((3, 4), (5, 6)), ((4, 3), (2, 7)), ((1, 4), (2, 4))])
def test_relative_keys_are_means_over_pairs_at_scaled_distances(old, new):
    ndimage = pytest.importorskip("scipy.ndimage")
    (rows, columns), patches = old, old[0] * old[1]
    keys = np.random.default_rng(0).normal(size=2 * patches - 1)
    plane = [
        [keys[r * columns + c + patches - 1] for c in range(1 - columns, columns)]
        for r in range(1 - rows, rows)
    ]
    scale = [(a - 1) / (b - 1) if b > 1 else 0 for a, b in zip(old, new)]
    found = {}
    for q in np.ndindex(*new):
        for k in np.ndindex(*new):
            offset = (k[0] - q[0]) * new[1] + k[1] - q[1]
            at = [(k[a] - q[a]) * scale[a] + old[a] - 1 for a in (0, 1)]
            value = ndimage.map_coordinates(np.array(plane), np.array(at)[:, None], order=1)
            found.setdefault(offset, []).append(value[0])
    expected = [np.mean(found[offset]) for offset in sorted(found)]
    actual = resample_offsets(keys[:, None], old, new, "bilinear_align_corners")
    np.testing.assert_allclose(actual[:, 0], expected, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_relative_keys_stay_on_their_own_grid(method):
    keys = np.random.default_rng(0).normal(size=(23, 2, 5)).astype(np.float32)
    np.testing.assert_allclose(resample_offsets(keys, (3, 4), (3, 4), method), keys, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        dict(posemb_where="layers"),
        dict(posemb="learned2d"),
        dict(posemb="learned2d", posemb_where="layers", registers=1, posemb_register_slots=True),
        dict(posemb="relative"),
        dict(posemb="relative", posemb_where="layers"),
    ],
    ids=str,
)
def test_every_position_embedding_meets_a_finer_grid(options):
    """Constant ones stay so, whatever the grid: the rest is a matter of shapes."""
    shape = dict(width=8, depth=2, mlp_dim=8, num_heads=2, patch_size=2)
    small, large = (
        model_config("ViT-Ti/16", image_size=size, **shape, **options)
        for size in ((6, 8), (12, 10))
    )
    targets = [
        abstract(lambda rngs, c=config: build_model(c, rngs))[1] for config in (small, large)
    ]
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), targets[0])
    moved = fit(traverse_util.flatten_dict(ones, sep="/"), small, large, skip=["head/.*"]).params
    wanted = traverse_util.flatten_dict(targets[1], sep="/")
    paths = [path for path in wanted if "posemb/" in path]
    assert paths
    for path in paths:
        assert moved[path].shape == wanted[path].shape
        np.testing.assert_allclose(moved[path], 1, atol=1e-6)
