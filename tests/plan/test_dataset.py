import numpy as np
import pytest

from vit_jax import config as configs
from vit_jax.data.sources import splits
from vit_jax.errors import InputError
from vit_jax.plan.dataset import KNOWN, dataset_of, split_size

PP = "decode|resize(32)|value_range(-1, 1)"


def make_config(source, split="train", **total):
    config = configs.default()
    config.total.update(total or dict(epochs=1.0))
    config.data.update(source=source, split=split, pp=PP)
    return config


@pytest.mark.parametrize(
    "source", ["tfds:imagenet2012", "tfds:imagenet2012:5.1.0", "folder:/data/ImageNet2012/"]
)
def test_known_data_need_not_be_there(source):
    dataset = dataset_of(make_config(source))
    assert (dataset.size, dataset.num_classes) == (1_281_167, 1000)
    assert dataset.image_size == (32, 32)
    assert dataset.mean == dataset.std == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    "split", ["train", "train[:99%]", "train[99%:]", "train[-500:]+test[10:20]", "test[:-10%]"]
)
def test_split_sizes_are_those_of_the_data_pipeline(split):
    sizes, _ = KNOWN["cifar10"]
    selected = splits.select(split, sizes, lambda part: np.zeros(sizes[part], int), "cifar10")
    assert split_size(split, sizes) == sum(len(rows) for _, rows in selected)


def test_unknown_splits_are_refused():
    with pytest.raises(InputError, match="known splits are train, test"):
        dataset_of(make_config("tfds:cifar10", split="validation"))


def test_data_that_are_there_are_read():
    dataset = dataset_of(make_config("digits"))
    assert (dataset.size, dataset.num_classes) == (1797, 10)


def test_unknown_data_do_where_the_config_says_enough():
    config = make_config("folder:not_here", steps=10)
    with pytest.raises(InputError, match="not_here.*set config.model.num_classes"):
        dataset_of(config)
    config.model.num_classes = 7
    assert dataset_of(config).num_classes == 7
    config.optimizer.warmup.epochs = 1.0
    with pytest.raises(InputError, match="durations in steps or examples"):
        dataset_of(config)
