"""The mesh axis `sequence`: the numbers of one device, and what is refused."""

import shutil

import jax
import pytest

from tests.parallel.test_distributed import finish, losses, same_run, start, two_processes
from tests.parallel.test_equivalence import DATASET, assert_same, make_config, train
from vit_jax.checkpoint.load import read_weights
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
    "options, layouts",
    [
        (
            dict(head="token"),
            [dict(data=1, fsdp=2, sequence=4), dict(data=1, fsdp=2, sequence=2, tensor=2)],
        ),
        (dict(head="gap"), [dict(data=4, sequence=2)]),
        (dict(head="map", posemb="none", rotary="mixed"), [dict(data=2, sequence=4)]),
        (dict(head="gap", registers=2, rotary="centred"), [dict(data=4, sequence=2)]),
    ],
    ids=["token", "gap", "map and mixed rotary", "registers and centred rotary"],
)
def test_every_layout_gives_the_run_of_one_device(options, layouts):
    """17 tokens with a class token, which no size divides, 16 without, and 18 with registers."""
    expected = train(run(options, jax.devices()[:1]), steps=4)
    for layout in layouts:
        assert_same(train(run(options, **layout), steps=4), expected)


@pytest.mark.slow
def test_an_image_may_lie_on_two_processes_and_a_resume_may_divide_it_otherwise(tmp_path):
    """Two processes of four devices each hold half of the tokens of every image."""
    one, two = tmp_path / "one", tmp_path / "two"
    options = ["--config.checkpoint.every.steps=3"]
    codes, outputs = finish([start(8, f"--workdir={one}", *options)])
    assert codes == [0], outputs
    expected, end = losses(one)
    params = read_weights(one).params
    layout = dict(data=1, sequence=4, tensor=2)
    halves = [*options, *(f"--config.parallel.{name}={size}" for name, size in layout.items())]
    codes, outputs = finish(two_processes(f"--workdir={two}", *halves))
    assert codes == [0, 0], outputs
    same_run(two, expected, end, params, tolerance=1e-4)
    shutil.rmtree(two / "checkpoints" / "6")
    other = [*options, "--config.parallel.data=4", "--config.parallel.sequence=2"]
    codes, outputs = finish([start(8, f"--workdir={two}", *other)])
    assert codes == [0] and "from step 3" in outputs[0], outputs
    same_run(two, expected, end, params, tolerance=1e-4)


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
