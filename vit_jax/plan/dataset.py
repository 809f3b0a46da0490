"""Facts about training data for a plan; the data need not be present."""

import re

from ml_collections import ConfigDict

from vit_jax import data
from vit_jax.data.sources import splits
from vit_jax.errors import InputError
from vit_jax.train.batches import patches_of
from vit_jax.train.run import Dataset

# Examples of each split, and classes.
KNOWN = {
    "imagenet2012": (dict(train=1_281_167, validation=50_000), 1000),
    "imagenet21k": (dict(train=14_197_122), 21_841),
    "jft": (dict(train=303_000_000), 18_291),
    "cifar10": (dict(train=50_000, test=10_000), 10),
    "cifar100": (dict(train=50_000, test=10_000), 100),
    "oxford_iiit_pet": (dict(train=3_680, test=3_669), 37),
    "oxford_flowers102": (dict(train=1_020, validation=1_020, test=6_149), 102),
    "mnist": (dict(train=60_000, test=10_000), 10),
    "fashion_mnist": (dict(train=60_000, test=10_000), 10),
}


def dataset_of(config: ConfigDict) -> Dataset:
    """Facts about a config's training data: from a table, else read, else from the config.

    For sources that are neither in the table nor readable, the config must give
    `model.num_classes`, and durations in steps or examples.

    Raises:
      InputError: the source cannot be opened and the config says too little.
    """
    pp = data.parse(config.data.pp)
    size, num_classes = _facts(config)
    even = (1,) * num_classes  # the cost of class weights does not depend on their values
    return Dataset(size, num_classes, pp.image_size, pp.mean, pp.std, patches_of(pp), even)


def _facts(config: ConfigDict) -> tuple[int, int]:
    """Examples per epoch and classes."""
    options = config.data
    if known := known_facts(options):
        return known
    try:
        source = data.open_configured(options)
    except InputError as error:
        if config.model.num_classes is None or _needs_size(config):
            raise InputError(
                f"{error}; to plan without the data, set config.model.num_classes and give "
                f"durations in steps or examples, or use a known name: {', '.join(KNOWN)}"
            ) from error
        return 0, config.model.num_classes
    return source.size, source.num_classes


def known_facts(options: ConfigDict) -> tuple[int, int] | None:
    """Examples per epoch and classes of a source in the table, None of others.

    Args:
      options: `config.data`.

    Raises:
      InputError: the data set has no such split.
    """
    known = KNOWN.get(_short_name(options.source))
    return known and (split_size(options.split, known[0]), known[1])


def _short_name(source: str) -> str:
    """ "folder:/data/imagenet21k" -> "imagenet21k", "tfds:cifar10:3.0.2" -> "cifar10"."""
    kind, _, name = source.partition(":")
    name = name.split(":")[0] if kind == "tfds" else name.rstrip("/").split("/")[-1]
    return name.lower().replace("-", "_")


def _needs_size(config: ConfigDict) -> bool:
    durations = (config.total, config.optimizer.warmup, config.optimizer.cooldown)
    return any(duration.epochs is not None for duration in durations)


def split_size(split: str, sizes: dict[str, int]) -> int:
    """The number of examples in a split such as "train[:99%]", given the sizes of whole splits.

    Raises:
      InputError: no such split.
    """
    total = 0
    for name, low, high in splits.parse(split):
        if name not in sizes:
            raise InputError(f"config.data.split {split!r}: known splits are {', '.join(sizes)}")
        size = sizes[name]
        first = _bound(low, size) if low else 0
        last = _bound(high, size) if high else size
        total += max(last - first, 0)
    return total


def _bound(text: str, size: int) -> int:
    if match := re.fullmatch(r"(.*)%", text):
        row = round(size * float(match[1]) / 100)
    else:
        row = int(text)
    return row + size if text.startswith("-") else row
