"""The strong-scaling curve, against closed forms."""

import jax
import jax.numpy as jnp
import pytest

from vit_jax.parallel.hardware import GIB, Chip
from vit_jax.plan.answers.scaling import Scaling

# 1 TFLOP/s, 10 GB/s of network, 1 GB/s to other slices.
CHIP = Chip("X", 1e12, 16 * GIB, 1e11, 10e9, slice_bandwidth=1e9)
SHAPE = (4, 1024, 4096)
BYTES = 4 * 4 * 1024 * 4096  # of the one parameter, float32
BATCH, FLOPS = 1024, 10**9


def scaling(**changes):
    params = {"blocks": {"mlp": {"fc1": {"kernel": jax.ShapeDtypeStruct(SHAPE, jnp.float32)}}}}
    options = dict(
        params=params,
        state_bytes=3 * BYTES,
        dtype="float32",
        batch_size=BATCH,
        flops_per_image=FLOPS,
        steps=86_400,
        chip=CHIP,
        slice_chips=64,
        mfu=0.5,
        rounds=False,
    )
    return Scaling(**(options | changes))


@pytest.mark.parametrize("chips", [1, 2, 16, 64])
def test_within_a_slice_gradients_are_summed_once(chips):
    point = scaling().point(chips)
    assert point["layout"] == dict(replica=1, data=chips, fsdp=1)
    assert point["compute"] == pytest.approx(BATCH * FLOPS / (chips * 0.5e12))
    network = 2 * BYTES * (chips - 1) / chips / 10e9
    assert point["network"] == pytest.approx(network, rel=1e-6, abs=1e-12)
    assert (point["slices"], point["between_slices"]) == (1, 0)
    step = max(point["compute"], network)
    assert point["step_seconds"] == pytest.approx(step)
    assert point["step_seconds_without_overlap"] == pytest.approx(point["compute"] + network)
    assert point["days"] == pytest.approx(step)  # 86,400 steps
    assert point["limit"] == ("compute" if point["compute"] > network else "network")


@pytest.mark.parametrize("chips, slices", [(128, 2), (256, 4)])
def test_between_slices_goes_the_share_of_each_chip(chips, slices):
    point = scaling().point(chips)
    inside = chips // slices
    assert point["slices"] == slices and point["layout"]["replica"] == slices
    outside = 2 * (slices - 1) / slices * BYTES / inside
    assert point["between_slices"] == pytest.approx(outside / 1e9, rel=1e-6)
    # Within the slice, a reduce-scatter and an all-gather of the gradients.
    assert point["network"] == pytest.approx(2 * (inside - 1) / inside * BYTES / 10e9, rel=1e-6)


def test_a_state_that_does_not_fit_is_sharded():
    """Three times the parameters and their gradients: 4 x 64 MiB, with 100 MiB a chip."""
    chip = Chip("Y", 1e12, 100 * 2**20, 1e11, 10e9)
    point = scaling(chip=chip).point(16)
    assert point["layout"] == dict(replica=1, data=4, fsdp=4)
    # Blocks are gathered in both passes; gradients are scattered, then summed over 4 replicas.
    sent = 2 * BYTES * 3 / 4 + BYTES * 3 / 4 + 2 * BYTES / 4 * 3 / 4
    assert point["network"] == pytest.approx(sent / 10e9)
    nothing = scaling(chip=chip).point(2)
    assert nothing["step_seconds"] is None and nothing["limit"].startswith("memory")


def test_efficiency_is_relative_to_the_first_that_is_possible():
    curve = scaling(mfu=1e-4).curve((16, 32, 2048))
    assert [point["limit"] for point in curve[:2]] == ["compute", "compute"]
    assert [point["efficiency"] for point in curve] == [1, pytest.approx(1), None]
    assert curve[2]["limit"].startswith("batch")


def test_a_slow_input_limits_and_unknown_networks_are_named():
    point = scaling(images_per_host=100, host_chips=4).point(16)
    assert point["limit"] == "input" and point["step_seconds"] == pytest.approx(BATCH / 400)
    chip = Chip("Z", 1e12, 16 * GIB, 1e11, 10e9)
    assert "--slice-bandwidth" in scaling(chip=chip).point(128)["limit"]


def test_chips_of_two_devices_share_their_speed():
    chip = Chip("V", 1e12, 16 * GIB, 1e11, 10e9, devices=2)
    point = scaling(chip=chip).point(4)
    assert point["layout"] == dict(replica=1, data=8, fsdp=1)
    assert point["compute"] == pytest.approx(BATCH * FLOPS / (4 * 0.5e12))
    assert point["network"] == pytest.approx(2 * BYTES * 7 / 8 / 5e9)
