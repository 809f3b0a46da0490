"""Draws the paper's figures 6, 7, 10, 11 and 14 for a checkpoint."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import data, models
from vit_jax.checkpoint.load import load
from vit_jax.errors import InputError
from vit_jax.figures import attention
from vit_jax.files import expand
from vit_jax.models.layers import normalize_pixels
from vit_jax.models.positions.embedding import AddedPositionEmbedding
from vit_jax.models.vit import ViT

EXAMPLES = 128  # images of a data set, as in figure 11
MAX_ROLLOUTS = 16  # images in the rollout figure
_WEIGHT_BYTES = 2**30  # bytes of attention weights on the device at a time


@dataclasses.dataclass(frozen=True)
class Drawn:
    """The result of `draw`.

    Attributes:
      figures: name -> path of the PNG.
      skipped: name -> reason why there is no figure.
      distances: mean attention distance in pixels by layer and head; [] without images.
    """

    figures: dict[str, str]
    skipped: dict[str, str]
    distances: list[list[float]]


def draw(
    path: str,
    output: str,
    *,
    images: Sequence[str] = (),
    source: str | None = None,
    split: str = "test",
    data_dir: str = "",
    use_ema: bool = False,
) -> Drawn:
    """Draws `filters`, `positions`, and, given images, `distance` and `rollout`.

    Args:
      path: workdir, checkpoint or weight file of a ViT.
      output: folder for the PNG files, created if necessary.
      images: image files whose attention is drawn; or
      source, split, data_dir: data whose first 128 images are used instead.
      use_ema: whether to use averaged parameters.

    Raises:
      InputError: no matplotlib, no such checkpoint or image, a model without attention.
    """
    figure_class()
    model, info = load(path, use_ema=use_ema)
    if info.name.startswith("BiT"):
        raise InputError(f"{path} is a {info.name}: it has neither patches nor attention to draw")
    preprocess = data.parse(info.pp)
    pixels = _pixels(images, source, split, data_dir, preprocess)
    folder = expand(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}") from None
    made, skipped = _draw_weights(model)
    distances, why = [], "no --image and no --source"
    if pixels is not None:
        looked, why = look_at(model, pixels, preprocess), "attention is not among all patches"
        if looked is not None:
            why = ""
            distances = looked[0].tolist()
            made["distance"] = _draw_distances(looked[0])
            made["rollout"] = _draw_rollout(pixels[:MAX_ROLLOUTS], looked[1][:MAX_ROLLOUTS])
    if why:
        skipped |= dict(distance=why, rollout=why)
    for name, figure in made.items():
        try:
            figure.savefig(folder / f"{name}.png", dpi=150, bbox_inches="tight")
        except OSError as error:
            raise InputError(f"cannot write to {folder}: {error.strerror}") from None
    return Drawn({name: str(folder / f"{name}.png") for name in made}, skipped, distances)


def figure_class() -> Any:
    """matplotlib's Figure.

    Raises:
      InputError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("figures need matplotlib: pip install 'vit_jax[figures]'") from None
    return Figure


def _pixels(
    paths: Sequence[str], source: str | None, split: str, data_dir: str, preprocess: Any
) -> np.ndarray | None:
    """The images whose attention is drawn, uint8 (n, h, w, 3); None if none are given."""
    if paths and source:
        raise InputError("give --image or --source, not both")
    if paths:
        return data.load_images(paths, preprocess)
    if not source:
        return None
    opened = data.open_source(source, split, data_dir=data_dir)
    count = min(EXAMPLES, opened.size)
    batches = data.eval_batches(opened, preprocess, batch_size=count, examples=np.arange(count))
    return next(iter(batches))["image"]


def _position_table(model: Any) -> np.ndarray | None:
    """The position embeddings that the model adds to its patches, (P, D); None if it has none."""
    if not isinstance(model, ViT) or model.config.posemb_where == "layers":
        return None
    if not isinstance(model.posemb, AddedPositionEmbedding):
        return None
    rows, columns = model.config.grid
    return np.asarray(model.posemb.table())[-rows * columns :]


def look_at(
    model: Any, pixels: np.ndarray, preprocess: Any
) -> tuple[np.ndarray, np.ndarray] | None:
    """Attention distances (layers, heads), means over images, and rollouts (n, rows, columns).

    None if the model's tokens do not attend to all tokens.
    """
    config = model.config
    graphdef, params = models.split(model)
    distances = attention.patch_distances(config.grid, config.image_size)
    names = [f"block{i:02}/attention" for i in range(config.depth)]

    def apply(params: Any, images: jax.Array) -> dict[str, jax.Array]:
        images = normalize_pixels(images, preprocess.mean, preprocess.std)
        return models.merge(graphdef, params)(images, return_intermediates=True)[1]

    if names[0] not in jax.eval_shape(apply, params, pixels[:1]):
        return None

    @jax.jit
    def look(params: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = apply(params, images)
        weights = jnp.stack([found[name] for name in names])
        far = attention.attention_distance(weights, distances, config.prefix_tokens)
        maps = attention.rollout_map(
            attention.rollout(weights),
            config.grid,
            config.prefix_tokens,
            class_token=config.head == "token",
        )
        return far.sum(1), maps

    each = 4 * config.depth * config.num_heads * config.num_tokens**2
    size = int(np.clip(_WEIGHT_BYTES // each, 1, len(pixels)))
    found = [
        jax.tree.map(np.asarray, look(params, pixels[start : start + size]))
        for start in range(0, len(pixels), size)
    ]
    far, maps = zip(*found)
    return sum(far) / len(pixels), np.concatenate(maps)


def _draw_weights(model: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Figures of the parameters by name, and reasons why others are missing."""
    made, skipped = {}, {}
    if model.config.palette:
        skipped["filters"] = "the tokens are pixels, which have no filters"
    elif model.config.resnet_stages is None:
        kernel = np.asarray(model.embedding.kernel[...])
        made["filters"] = _draw_filters(*attention.filter_components(kernel))
    else:
        skipped["filters"] = "the patches of a hybrid are no pictures"
    table = _position_table(model)
    if table is not None:
        similarity = attention.position_similarity(table, model.config.grid)
        made["positions"] = _draw_positions(similarity)
    else:
        skipped["positions"] = "the model adds no position embedding to the patches"
    return made, skipped


def _tiled(pictures: np.ndarray, columns: int) -> np.ndarray:
    """Pictures (n, h, w, ...) side by side in one, NaN between them."""
    gap = max(1, pictures.shape[1] // 8)
    missing = -len(pictures) % columns
    margins = [(0, missing), (0, gap), (0, gap)] + [(0, 0)] * (pictures.ndim - 3)
    framed = np.pad(pictures.astype(np.float64), margins, constant_values=np.nan)
    rows = framed.reshape(-1, columns, *framed.shape[1:])
    return np.concatenate(np.concatenate(list(rows), axis=1), axis=1)[:-gap, :-gap]


def _draw_image(image: np.ndarray, title: str, **options: Any) -> tuple[Any, Any, Any]:
    """A figure, its axes and the image in it."""
    figure = figure_class()(figsize=(6, 6 * image.shape[0] / image.shape[1] + 0.4))
    axis = figure.subplots()
    axis.set_axis_off()
    axis.set_title(title, fontsize=9)
    return figure, axis, axis.imshow(image, **options)


def _draw_filters(components: np.ndarray, shares: np.ndarray) -> Any:
    low, high = (f(components, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
    pictures = (components - low) / np.maximum(high - low, 1e-12)
    tiles = np.nan_to_num(_tiled(pictures, 7), nan=1.0)
    title = f"{len(shares)} principal components, {shares.sum():.0%} of the filters' variance"
    return _draw_image(tiles, title)[0]


def _draw_positions(similarity: np.ndarray) -> Any:
    rows, columns = similarity.shape[:2]
    tiles = _tiled(similarity.reshape(rows * columns, rows, columns), columns)
    title = "Position embedding of each patch against all"
    figure, axis, image = _draw_image(tiles, title, vmin=-1, vmax=1, cmap="viridis")
    figure.colorbar(image, ax=axis, label="cosine similarity", shrink=0.8)
    return figure


def _draw_distances(distances: np.ndarray) -> Any:
    figure = figure_class()(figsize=(5, 4))
    axis = figure.subplots()
    for head in range(distances.shape[1]):
        axis.scatter(1 + np.arange(len(distances)), distances[:, head], s=12)
    axis.set(xlabel="layer", ylabel="mean attention distance (pixels)")
    axis.set_ylim(0, 1.1 * distances.max())
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_title(f"Attention distance of {distances.shape[1]} heads by depth", fontsize=9)
    return figure


def _draw_rollout(pixels: np.ndarray, maps: np.ndarray) -> Any:
    """Draws each image, and beside it a copy that is dark where rollout is low."""
    from PIL import Image

    pictures = []
    for image, seen in zip(pixels, maps):
        scaled = Image.fromarray((seen / seen.max()).astype(np.float32))
        mask = np.asarray(scaled.resize(image.shape[1::-1], Image.Resampling.BILINEAR))
        pictures += [image / 255, image / 255 * mask[..., None]]
    tiles = np.nan_to_num(_tiled(np.stack(pictures), 2 if len(pixels) < 4 else 4), nan=1.0)
    return _draw_image(tiles, "Input, and where attention comes from")[0]
