"""How classes of a data set are matched to those of a model."""

from types import SimpleNamespace

import numpy as np
import pytest

from vit_jax.data import open_source
from vit_jax.data.options import DataOptions
from vit_jax.evaluate.classes import match_classes
from vit_jax.evaluate.evaluation import Context


def source(*names):
    return SimpleNamespace(
        label_names=list(names), name="folder:x", split="test", num_classes=len(names)
    )


NUMBERS = [str(i) for i in range(12)]


@pytest.mark.parametrize(
    "names, labels, width, places, said",
    [
        (["cat", "dog"], ["cat", "dog"], 2, [0, 1], ""),
        (["dog", "fox"], ["cat", "dog", "fox"], 3, [1, 2], "by name: 2 of the model's 3"),
        (["cat", "dog"], ["cat", "dog", "fox"], 3, [0, 1], "by name: 2 of the model's 3"),
        (["dog", "fox", "gnu"], ["cat", "dog", "fox"], 3, [1, 2, -1],
         r"2 of the model's 3; images of 1 other classes \(gnu\) do not count"),
        (NUMBERS, [], 12, list(range(12)), "numbers of the model's 12 classes"),
        (sorted(NUMBERS), [], 12, [0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9], "numbers of the model's"),
        (["7", "207"], [], 1000, [7, 207], "numbers of the model's 1000"),
        (["7", "207"], ["tench", "shark"], 1000, [7, 207], "numbers of the model's 1000"),
        (["7", "1000"], [], 1000, [0, 1], "by their order, as the model has no names"),
        (["red", "blue"], ["cat", "dog"], 2, [0, 1], "by their order, as the model's have other"),
        (["red", "cat"], ["cat", "cat"], 2, [0, 1], "by their order"),
    ],
)  # fmt: skip
def test_classes_are_matched(names, labels, width, places, said):
    import re

    match = match_classes(source(*names), labels, width)
    assert match.places.tolist() == places
    assert re.search(said, match.line) and bool(said) == bool(match.line)


def test_images_of_other_classes_do_not_count():
    match = match_classes(source("dog", "fox", "gnu"), ["cat", "dog", "fox"], 3)
    batch = dict(label=np.array([0, 1, 2, 0], np.int32), mask=np.array([True, True, True, False]))
    (found,) = match([batch], multi_label=False)
    assert found["mask"].tolist() == [True, True, False, False]
    assert found["label"][:2].tolist() == [1, 2] and found["label"].dtype == np.int32
    sets = dict(label=np.array([[1, 0, 1], [0, 1, 0]], np.uint8), mask=np.array([True, True]))
    (found,) = match([sets], multi_label=True)
    assert found["label"].tolist() == [[0, 1, 0], [0, 0, 1]] and found["mask"].all()


@pytest.mark.parametrize("train, shared", [("train", 359), ("train[:80%]", 0)])
def test_training_images_in_an_evaluation_are_said(train, shared, caplog):
    context = Context(
        where="config.evals.test", engine=None, task=None, eval_step=None, pp=None, labels=(),
        data=DataOptions(source="digits"), batch_size=8, training=open_source("digits", train),
    )  # fmt: skip
    context.open_source(None, "train[80%:]")
    said = f"config.evals.test: {shared} of 359 images of digits (train[80%:]) are training images"
    assert (said in caplog.text) == bool(shared) == bool(caplog.text)
    caplog.clear()
    context.open_source(None, "train[80%:]", tests=False)
    assert not caplog.text
