"""A source and an operation defined outside the package, used by name."""

import dataclasses

import numpy as np
import pytest

from vit_jax.data import eval_batches, open_source, parse, train_batches
from vit_jax.data.ops import op
from vit_jax.data.sources import opening
from vit_jax.data.sources.source import ArraySource
from vit_jax.errors import InputError


@pytest.fixture
def registered(monkeypatch):
    """The registries as they were, after the test."""
    for registry in (op.OPERATIONS, opening.SOURCES):
        for field in ("_things", "_origins"):
            monkeypatch.setattr(registry, field, dict(getattr(registry, field)))

    @opening.source_kind("stripes:COUNT")
    def stripes(argument, request):
        images = np.zeros((int(argument), 8, 8, 1), np.uint8)
        images[::2, ::2], images[1::2, :, ::2] = 255, 255
        targets = np.arange(int(argument), dtype=np.int32) % 2
        return ArraySource(
            images=images,
            targets=targets,
            size=len(images),
            label_names=["across", "down"],
            image_size=(8, 8),
            **request.common,
        )

    @op.operation("invert")
    class Invert(op.Op):
        """Turns black into white."""

        exact = True
        top: int = 255

        def tensorflow(self, image, words):
            return self.top - image

        def batched(self, images, words, xp):
            return self.top - images

    return Invert


def test_a_source_and_an_operation_of_ones_own(registered):
    source = open_source("stripes:10", "train")
    assert source.label_names == ["across", "down"]
    batch = next(iter(train_batches(source, parse("invert"), batch_size=10, seed=0)))
    np.testing.assert_array_equal(batch["image"][..., :1], 255 - source.images[batch["index"] % 10])
    assert str(parse("invert(top=254)")) == "decode|invert(top=254)"
    assert dataclasses.astuple(parse("invert").ops[0]) == (255,)


def test_both_forms_of_an_operation_agree(registered):
    source = open_source("stripes:6", "train")
    in_memory = parse("invert")
    in_graph = parse("invert|resize(8, method='area')")  # area has no batched form
    assert in_memory.has_batched and not in_graph.has_batched
    found = [
        np.concatenate([batch["image"] for batch in eval_batches(source, pp, batch_size=3)])
        for pp in (in_memory, in_graph)
    ]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    "spec, message", [("stripes", "write stripes:COUNT"), ("strips:3", "did you mean 'stripes'")]
)
def test_how_it_is_written_wrong(registered, spec, message):
    with pytest.raises(InputError, match=message):
        open_source(spec, "train")


def test_a_name_is_taken_once(registered):
    with pytest.raises(InputError, match="'flip_lr' is registered already"):
        op.operation("flip_lr")(type("Mirror", (op.Op,), {}))
    with pytest.raises(InputError, match="'folder' is registered already"):
        opening.source_kind("folder:DIR")(lambda argument, request: None)
