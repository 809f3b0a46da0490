"""The record of a loaded model: `info` of `model, info = vit_jax.load(path)`."""

import dataclasses
import functools
import io
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vit_jax import data, models
from vit_jax.data.given import GivenImage, name_of, read_given
from vit_jax.errors import InputError
from vit_jax.models.attention.rollout import image_rollout
from vit_jax.models.naflex import Patches, model_inputs
from vit_jax.models.outputs import features as outputs
from vit_jax.models.outputs.features import Layers
from vit_jax.models.resnet import BiT
from vit_jax.models.vit import ViT
from vit_jax.weights import Weights

BATCH = 32  # images computed at once
# One image, several, or what the model takes.
Images: TypeAlias = "GivenImage | Sequence[GivenImage] | jax.Array | Patches"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loaded(Weights):
    """`Weights` of a model that is in memory, and what can be asked of the model.

    Wherever images are asked for, these are taken: the path of a file, an address such as
    https://host/cat.jpg, the bytes of a file, a Pillow image, a uint8 array (height, width),
    (height, width, channels) or (batch, height, width, channels), or a list of such; and what the
    model itself takes, a float array (batch, height, width, 3) or `Patches`.

    Attributes:
      model: the model, the same object that `load` returns. `params` are {}: the model holds them.
    """

    model: ViT | BiT = dataclasses.field(repr=False, compare=False)

    def preprocess(self, images: Images) -> jax.Array | Patches:
        """Images as the model takes them, prepared as in evaluation.

        An image gives the same values in whatever form it is given. Alpha is dropped, grey becomes
        three equal channels, the EXIF orientation is applied.

        Args:
          images: one image or a list of images; see `Loaded`.

        Returns:
          Float32 (batch, height, width, 3), also of one image; `Patches` for a NaFlex model.

        Raises:
          InputError: an image cannot be read, or has another size than the model's.

        Example:
            >>> import numpy as np
            >>> model, info = vit_jax.load("workdirs/digits")
            >>> images = info.preprocess(np.zeros((20, 30), np.uint8))  # or "cat.jpg"
            >>> images.shape, float(images.min())
            ((1, 16, 16, 3), -1.0)
            >>> model(images).shape
            (1, 10)
        """
        if isinstance(images, Patches):
            return images
        if _is_input(images):
            self._check_input(images)
            return jnp.asarray(images)
        return self._prepared(listed(images), 0)

    def features(
        self,
        images: Images,
        *,
        layers: Layers = "last",
        pool: str = "head",
        norm: bool = False,
        batch_size: int = BATCH,
    ) -> np.ndarray | list[np.ndarray]:
        """Features of images, from any layer of the model.

        Without norm they are the outputs of the blocks, as `output_hidden_states` of Hugging Face
        transformers and `forward_intermediates` of timm give them.

        Args:
          images: one image or a list of images; see `Loaded`.
          layers: number of a block (of a stage in a ResNet), also from the end (-1); its name
            ("block03", "stage2"); "last", "all"; or a list of them.
          pool: "head": the input of the classifier (of the last layer);
            "cls": the class token;
            "mean": the mean of the patches;
            "tokens": all tokens, in the order class, distillation, registers, patches by row;
            "grid": the patches at their places in the image.
          norm: whether to apply the model's last norm to the tokens.
          batch_size: number of images computed at once.

        Returns:
          Float32 (batch, width) for head, cls and mean; (batch, tokens, width); (batch, rows,
          columns, width) for grid. A list of arrays if `layers` is "all" or a list.

        Raises:
          InputError: an image cannot be read, or the model has no such layer or token.

        Example:
            >>> import numpy as np
            >>> model, info = vit_jax.load("workdirs/digits")
            >>> images = np.zeros((3, 8, 8), np.uint8)
            >>> info.features(list(images)).shape
            (3, 32)
            >>> info.features(list(images), layers=-2, pool="grid").shape
            (3, 4, 4, 32)
            >>> [layer.shape for layer in info.features(images[0], layers="all", pool="cls")]
            [(1, 32), (1, 32)]
        """
        chosen = layers if isinstance(layers, int | str) else tuple(layers)
        several = not isinstance(chosen, int | str) or chosen == "all"
        static = (chosen, pool, norm)
        found: list[np.ndarray] = self._mapped(_features, static, images, batch_size)
        return found if several else found[0]

    def pyramid(
        self,
        images: Images,
        *,
        layers: Layers | None = None,
        norm: bool = False,
        batch_size: int = BATCH,
    ) -> dict[str, np.ndarray]:
        """Maps of several layers, for dense tasks such as segmentation and detection.

        Args:
          images: one image or a list of images; see `Loaded`.
          layers: as in `features`. None: of a ViT, whose maps are all of one size, four blocks
            evenly spaced up to the last; of a ResNet all stages; of a hybrid the stages of its
            ResNet and the last block.
          norm: whether to apply the model's last norm to the tokens.
          batch_size: number of images computed at once.

        Returns:
          Name of the layer -> float32 (batch, rows, columns, channels), in the order of `layers`.

        Raises:
          InputError: as `features`.

        Example:
            >>> import numpy as np
            >>> model, info = vit_jax.load("workdirs/digits")
            >>> maps = info.pyramid(np.zeros((20, 30, 3), np.uint8))
            >>> {name: value.shape for name, value in maps.items()}
            {'block00': (1, 4, 4, 32), 'block01': (1, 4, 4, 32)}
        """
        names = (
            outputs.default_levels(self.config)
            if layers is None
            else outputs.named_layers(self.config, layers)
        )
        static = (tuple(names), "grid", norm)
        maps: list[np.ndarray] = self._mapped(_features, static, images, batch_size)
        return dict(zip(names, maps, strict=True))

    def attention(self, image: Images) -> np.ndarray:
        """Attention rollout: where in an image the model's answer comes from (appendix D.8).

        The share of each patch in the input of the classifier, through all layers (2005.00928).
        The map is of the image as the model sees it, after resizing and cropping.

        Args:
          image: one image; see `Loaded`.

        Returns:
          Float32 (rows, columns) of patches.

        Raises:
          InputError: the image cannot be read, or the model has no attention among all patches.

        Example:
            >>> import numpy as np
            >>> model, info = vit_jax.load("workdirs/digits")
            >>> seen = info.attention(np.zeros((8, 8), np.uint8))
            >>> seen.shape, bool(0 < seen.sum() <= 1)
            ((4, 4), True)
        """
        inputs = self.preprocess(image)
        if len(inputs) != 1:
            raise InputError(f"attention takes one image, not {len(inputs)}; call it for each")
        (shares,) = self._mapped(_attention, (), inputs, 1)
        if not isinstance(inputs, Patches):
            return shares[0]
        rows, columns = map(int, inputs.grid[0])
        return shares[0, : rows * columns].reshape(rows, columns)

    def batches(self, images: Images, batch_size: int) -> Iterator[jax.Array | Patches]:
        """Images as the model takes them, in batches; files are read batch by batch.

        Raises:
          InputError: an image cannot be read, or `batch_size` is below 1.
        """
        if batch_size < 1:
            raise InputError(f"the batch size is {batch_size}; it must be at least 1")
        if isinstance(images, Patches) or _is_input(images):
            inputs = images if isinstance(images, Patches) else jnp.asarray(images)
            for start in range(0, len(inputs), batch_size):
                rows = operator.itemgetter(slice(start, start + batch_size))
                yield jax.tree.map(rows, inputs)
            return
        given = listed(images)
        for start in range(0, len(given), batch_size):
            yield self._prepared(given[start : start + batch_size], start)

    def _check_input(self, images: jax.Array | np.ndarray) -> None:
        """Refuses floats (batch, height, width, 3) of another size than the model takes."""
        *size, channels = images.shape[1:]
        of_any_size = not isinstance(self.model, ViT)
        if channels != 3 or not (of_any_size or tuple(size) == tuple(self.config.input_size)):
            wanted = "height, width" if of_any_size else ", ".join(map(str, self.config.input_size))
            raise InputError(
                f"the images are floats of shape {tuple(images.shape)}, which the model is given "
                f"as they are; it takes (batch, {wanted}, 3). Give uint8 images to have them "
                "resized"
            )

    def _prepared(self, images: Sequence[GivenImage], start: int) -> jax.Array | Patches:
        """Images, of which the first has the number `start`, as the model takes them."""
        pp = data.parse(self.pp)
        limit = self.run_config.get("data", {}).get("max_pixels", data.MAX_PIXELS)
        pixels = read_given(images, pp, limit, start)
        config = self.config
        if isinstance(self.model, ViT) and pixels.shape[1:3] != tuple(config.input_size):
            raise InputError(
                f"{name_of(images[0], start)} is {pixels.shape[1]}x{pixels.shape[2]} after the "
                f"preprocessing {self.pp!r}; the model takes {config.input_size[0]}x"
                f"{config.input_size[1]}: resize it"
            )
        return model_inputs(jnp.asarray(pixels), config, pp.mean, pp.std)

    def _mapped(
        self,
        function: Callable[..., list[jax.Array]],
        static: tuple[Any, ...],
        images: Images,
        batch_size: int,
    ) -> list[np.ndarray]:
        """The arrays that a compiled function gives for all images, batch by batch."""
        graphdef, params = models.split(self.model)
        parts: list[list[np.ndarray]] = []
        for inputs in self.batches(images, batch_size):
            count = len(inputs)
            if parts and count < batch_size:  # the last batch is padded, so as not to compile again
                inputs = jax.tree.map(functools.partial(_padded, size=batch_size), inputs)
            found = function(graphdef, static, params, inputs)
            parts.append([np.asarray(array)[:count] for array in found])
        if not parts:
            raise InputError("no images are given")
        return [np.concatenate(arrays) for arrays in zip(*parts)]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _features(
    graphdef: nnx.GraphDef, static: tuple[Layers, str, bool], params: Any, inputs: Any
) -> list[jax.Array]:
    layers, pool, norm = static
    return outputs.features(_merged(graphdef, params), inputs, layers, pool=pool, norm=norm)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _attention(
    graphdef: nnx.GraphDef, static: tuple[()], params: Any, inputs: Any
) -> list[jax.Array]:
    del static
    model = _merged(graphdef, params)
    _, out = model(inputs, return_intermediates=True)
    return [image_rollout(model.config, out, inputs)]


def _merged(graphdef: nnx.GraphDef, params: Any) -> ViT | BiT:
    model = models.merge(graphdef, params)
    assert isinstance(model, ViT | BiT)
    return model


def _padded(leaf: jax.Array, size: int) -> jax.Array:
    return jnp.pad(leaf, [(0, size - len(leaf))] + [(0, 0)] * (leaf.ndim - 1))


def _is_input(images: object) -> TypeGuard[jax.Array | np.ndarray]:
    """Whether an array holds images as the model takes them."""
    return (
        isinstance(images, jax.Array | np.ndarray)
        and images.ndim == 4
        and jnp.issubdtype(images.dtype, jnp.floating)
    )


def listed(images: Any) -> list[GivenImage]:
    """One image, several, what an iterator gives, or a uint8 batch, as a list of images."""
    if isinstance(images, Patches):
        raise InputError("Patches are what a model takes; give the images themselves")
    if isinstance(images, jax.Array):
        images = np.asarray(images)
    if isinstance(images, np.ndarray):
        return list(images) if images.ndim == 4 else [images]
    if isinstance(images, Iterator) and not isinstance(images, io.IOBase):
        images = list(images)
    if isinstance(images, Sequence) and not isinstance(
        images, str | bytes | bytearray | memoryview
    ):
        return [np.asarray(each) if isinstance(each, jax.Array) else each for each in images]
    return [images]
