"""The mesh axis `sequence`: the numbers of one device, and what is refused."""

import jax
import pytest

from tests.parallel.test_equivalence import DATASET, assert_same, make_config, train
from vit_jax.errors import InputError
from vit_jax.parallel.pjit import PjitEngine
from vit_jax.parallel.pmap import PmapEngine
from vit_jax.train.run import prepare


def run(options=None, devices=None, engine=PjitEngine, **parallel):
    config = make_config(**parallel)
    config.model.attention_dropout = 0.0
    config.model.update(options or {})
    config.parallel.replicated_tolerance = 0.1
    return prepare(config, DATASET, engine(config.parallel, devices))


@pytest.mark.slow
@pytest.mark.parametrize(
    "head, layouts",
    [
        ("token", [dict(data=1, fsdp=2, sequence=4), dict(data=1, fsdp=2, sequence=2, tensor=2)]),
        ("gap", [dict(data=4, sequence=2)]),
    ],
)
def test_every_layout_gives_the_run_of_one_device(head, layouts):
    """17 tokens with a class token, which no size divides, and 16 without."""
    expected = train(run(dict(head=head), jax.devices()[:1]), steps=4)
    for layout in layouts:
        assert_same(train(run(dict(head=head), **layout), steps=4), expected)


def test_pmap_refuses_it():
    with pytest.raises(InputError, match="sequence=2 needs engine 'pjit'; pmap divides batches"):
        run(engine=PmapEngine, data=4, sequence=2)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(attention_kind="window(3)"), "needs model.attention_kind 'full' or 'causal'"),
        (dict(posemb="relative"), "needs another model.posemb than 'relative'"),
        (dict(position_bias="mlp"), "needs model.position_bias 'none'"),
        (dict(attention_dropout=0.1), "needs model.attention_dropout 0.0"),
        (dict(patch_dropout=0.5), "needs model.patch_dropout 0.0"),
    ],
)
def test_models_that_it_does_not_suit_are_refused(options, message):
    with pytest.raises(InputError, match=message) as error:
        run(options, data=4, sequence=2)
    assert "\n" not in str(error.value)


def test_a_size_that_leaves_devices_empty_is_refused():
    """17 tokens on 8 devices are 3 each: two would have none; on 6 all have some."""
    with pytest.raises(InputError, match="any of the 17 tokens; the nearest .* is 6"):
        run(data=1, sequence=8)
