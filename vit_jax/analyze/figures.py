"""Pictures of what a checkpoint has learnt: the paper's figures 6, 7, 10, 11 and 14."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import data, models
from vit_jax.analyze import attention
from vit_jax.checkpoint.load import load
from vit_jax.errors import InputError

EXAMPLES = 128  # images of a data set, as in figure 11
MAX_ROLLOUTS = 16  # rows of a picture
_WEIGHT_BYTES = 2**30  # of attention that a device holds at a time


@dataclasses.dataclass(frozen=True)
class Drawn:
    """What came of it.

    Attributes:
      figures: name -> path of the PNG.
      skipped: name -> why there is none.
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
      output: folder for the PNG files, made if need be.
      images: files to look at; or
      source, split, data_dir: data of which the first 128 are.
      use_ema: use averaged parameters.

    Raises:
      InputError: no matplotlib, no such checkpoint or image, a model without attention.
    """
    figure_class()
    model, info = load(path, use_ema=use_ema)
    if info.name.startswith("BiT"):
        raise InputError(f"{path} is a {info.name}: it has neither patches nor attention to draw")
    config = model.config
    preprocess = data.parse(info.pp)
    pixels = _pixels(images, source, split, data_dir, preprocess)
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}") from None
    drawn = Drawn({}, {}, [])

    def save(name: str, figure: Any) -> None:
        drawn.figures[name] = str(folder / f"{name}.png")
        figure.savefig(drawn.figures[name], dpi=150)

    if config.resnet_stages is None:
        kernel = np.asarray(model.embedding.kernel[...])
        save("filters", _draw_filters(*attention.filter_components(kernel)))
    else:
        drawn.skipped["filters"] = "the patches of a hybrid are no pictures"
    table = _position_table(model)
    if table is None:
        drawn.skipped["positions"] = "the model adds no position embedding to the patches"
    else:
        save("positions", _draw_positions(attention.position_similarity(table, config.grid)))
    if pixels is None:
        drawn.skipped |= dict.fromkeys(("distance", "rollout"), "no --image and no --source")
        return drawn
    looked = _look(model, pixels, preprocess)
    if looked is None:
        drawn.skipped |= dict.fromkeys(("distance", "rollout"), "attention is not over all patches")
        return drawn
    distances, maps = looked
    drawn.distances.extend(distances.tolist())
    save("distance", _draw_distances(distances))
    save("rollout", _draw_rollout(pixels[:MAX_ROLLOUTS], maps[:MAX_ROLLOUTS]))
    return drawn


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
    """The images to look at, uint8 (n, h, w, 3); None: none are asked for."""
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
    """What the model adds to its patches, (P, D)."""
    posemb = getattr(model, "posemb", None)
    if not hasattr(posemb, "table"):
        return None
    rows, columns = model.config.grid
    return np.asarray(posemb.table())[-rows * columns :]


def _look(model: Any, pixels: np.ndarray, preprocess: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Attention distances (layers, heads), means over images, and rollouts (n, rows, columns).

    None: the model's attention is not of all tokens to all.
    """
    config = model.config
    graphdef, params = models.split(model)
    distances = attention.patch_distances(config.grid, config.image_size)
    mean, std = jnp.asarray(preprocess.mean), jnp.asarray(preprocess.std)
    names = [f"block{i:02}/attention" for i in range(config.depth)]

    def apply(params: Any, images: jax.Array) -> dict[str, jax.Array]:
        images = (images.astype(jnp.float32) / 255.0 - mean) / std
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


def _grid_of_pictures(rows: int, columns: int, size: float = 0.8) -> tuple[Any, np.ndarray]:
    figure = figure_class()(figsize=(columns * size, rows * size), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    return figure, axes


def _draw_filters(components: np.ndarray, shares: np.ndarray) -> Any:
    figure, axes = _grid_of_pictures(-(-len(components) // 7), 7)
    for axis, component, share in zip(axes.flat, components, shares):
        span = np.ptp(component)
        axis.imshow((component - component.min()) / (span if span else 1.0))
        axis.set_title(f"{share:.1%}", fontsize=5, pad=1)
    figure.suptitle("Principal components of the patch embedding's filters", fontsize=7)
    return figure


def _draw_positions(similarity: np.ndarray) -> Any:
    rows, columns = similarity.shape[:2]
    figure, axes = _grid_of_pictures(rows, columns, size=max(0.25, 6 / max(rows, columns)))
    for i in range(rows):
        for j in range(columns):
            image = axes[i, j].imshow(similarity[i, j], vmin=-1, vmax=1, cmap="viridis")
    figure.colorbar(image, ax=axes, label="cosine similarity")
    figure.suptitle("Position embedding of each patch against all", fontsize=9)
    return figure


def _draw_distances(distances: np.ndarray) -> Any:
    figure = figure_class()(figsize=(5, 4), layout="constrained")
    axis = figure.subplots()
    for head in range(distances.shape[1]):
        axis.scatter(np.arange(len(distances)), distances[:, head], s=12)
    axis.set(xlabel="layer", ylabel="mean attention distance (pixels)", ylim=(0, None))
    axis.set_title(f"Attention distance of {distances.shape[1]} heads by depth", fontsize=9)
    return figure


def _draw_rollout(pixels: np.ndarray, maps: np.ndarray) -> Any:
    from PIL import Image

    figure, axes = _grid_of_pictures(len(pixels), 2, size=2.0)
    for pair, image, seen in zip(axes, pixels, maps):
        scaled = Image.fromarray((seen / seen.max()).astype(np.float32))
        mask = np.asarray(scaled.resize(image.shape[1::-1], Image.BILINEAR))
        pair[0].imshow(image)
        pair[1].imshow((image * mask[..., None]).astype(np.uint8))
    axes[0, 0].set_title("input", fontsize=8)
    axes[0, 1].set_title("attention", fontsize=8)
    return figure
