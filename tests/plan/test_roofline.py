"""Predicted steps against closed forms."""

import dataclasses
import itertools
import math
from types import SimpleNamespace

import jax
import pytest

from vit_jax import models
from vit_jax.parallel.hardware import Chip, find_chip
from vit_jax.plan.collectives import Collective
from vit_jax.plan.roofline import links, predict, recomputed_macs, remat_policy

# Two devices a chip, each of 1 TFLOP/s, 100 GB/s of memory, 10 GB/s of network.
CHIP = Chip("X", 2e12, 1, 200e9, 20e9, devices=2)


def gather(seconds, overlapped):
    """An all-gather that takes this long on one of eight devices."""
    return Collective("all-gather", round(seconds * 10e9 / 7), 8, 1, "", overlapped=overlapped)


@pytest.mark.parametrize(
    "compute, memory, overlapped, exposed, step, bottleneck",
    [
        (5, 2, 1, 0, 5, "compute"),
        (5, 2, 1, 3, 8, "compute"),  # what nothing overlaps comes on top
        (2, 5, 1, 0, 5, "memory"),
        (1, 2, 5, 0, 5, "network"),
        (3, 2, 2, 2, 5, "network"),
    ],
)
def test_the_longest_counts_and_the_exposed_on_top(
    compute, memory, overlapped, exposed, step, bottleneck
):
    found = predict(
        step_flops=compute * 1e12,
        traffic=memory * 100e9,
        found=[gather(overlapped, True), gather(exposed, False)],
        chip=CHIP,
    )
    assert found == dict(
        compute=pytest.approx(compute),
        memory=pytest.approx(memory),
        network=pytest.approx(overlapped + exposed),
        overlapped=pytest.approx(overlapped),
        between_slices=0,
        between_slices_overlapped=0,
        step=pytest.approx(step),
        bottleneck=bottleneck,
    )


@pytest.mark.parametrize(
    "inside, outside, overlapped, step, bottleneck",
    [
        (2, 5, True, 5, "between_slices"),  # both networks at the same time
        (5, 2, True, 5, "network"),
        (2, 5, False, 7, "between_slices"),  # one after the other
    ],
)
def test_the_network_between_slices_has_a_speed_of_its_own(
    inside, outside, overlapped, step, bottleneck
):
    """3 GB/s a chip, half of it for each of its two devices."""
    chip = dataclasses.replace(CHIP, slice_bandwidth=3e9)
    # A ring of two slices sends as many bytes as each has.
    between = Collective(
        "all-reduce", outside * 1_500_000_000, 2, 1, "", overlapped=overlapped, between_slices=True
    )
    found = predict(step_flops=1e12, traffic=0, found=[gather(inside, True), between], chip=chip)
    assert found["between_slices"] == pytest.approx(outside)
    assert found["between_slices_overlapped"] == pytest.approx(outside if overlapped else 0)
    assert (found["network"], found["step"]) == (pytest.approx(inside), pytest.approx(step))
    assert found["bottleneck"] == bottleneck
    with pytest.raises(ValueError, match="X: the bandwidth between slices is not known"):
        predict(step_flops=1, traffic=0, found=[between], chip=CHIP)


V5E, V5P = find_chip("TPU v5 lite"), find_chip("TPU v5p")


def torus(*sides):
    return list(itertools.product(*map(range, sides)))


def test_links_lead_along_the_axes_of_a_group():
    """A v5e chip has four links, two along each axis; at 16 chips the ends of an axis meet."""
    whole = torus(16, 16, 1)
    assert links(range(256), whole, V5E) == 1
    row = range(16)  # along y: a ring, with both links of that axis
    assert links(row, whole, V5E) == 0.5
    assert links(range(8), whole, V5E) == 0.25  # half of a row is a line, its ends have one link
    assert links(range(128), whole, V5E) == 0.75  # 8 x 16: a line and a ring
    assert links([0], whole, V5E) == links(row, [], V5E) == 1


@pytest.mark.parametrize(
    "chip, sides, share",
    [
        (V5E, (4, 4, 1), 0.5),  # two lines, of two axes
        (V5E, (2, 2, 1), 0.5),
        (V5E, (8, 16, 1), 0.75),
        (V5E, (4, 1, 1), 0.25),  # the links of the other axis lead nowhere
        (V5P, (4, 4, 4), 1),
        (V5P, (4, 4, 8), 1),
        (V5P, (2, 4, 4), 0.5),  # a part of a cube: three lines
        (V5P, (2, 2, 1), 1 / 3),
    ],
)
def test_only_some_sides_are_rings(chip, sides, share):
    """Cloud TPU's documentation: v5e wraps sides of 16, v5p slices of whole cubes of 4x4x4."""
    assert links(range(math.prod(sides)), torus(*sides), chip) == pytest.approx(share)


def test_a_line_takes_twice_as_long_as_a_ring():
    """An all-reduce of 1 GB over 16 chips in a row: 2 x 15/16 GB over half of 200 GB/s."""
    collective = Collective("all-reduce", 10**9, 16, 1, "", members=tuple(range(16)))

    def seconds(sides):
        return predict(step_flops=0, traffic=0, found=[collective], chip=V5E, coords=torus(*sides))[
            "network"
        ]

    assert seconds((16, 16, 1)) == pytest.approx(2 * 15 / 16 / 100)
    assert seconds((4, 4, 1)) == pytest.approx(2 * 15 / 16 / 100)  # both axes, each a line
    assert seconds((1, 16, 1)) == pytest.approx(2 * 15 / 16 / 100)
    half = dataclasses.replace(collective, group=8, members=tuple(range(8)))
    found = predict(step_flops=0, traffic=0, found=[half], chip=V5E, coords=torus(16, 16, 1))
    assert found["network"] == pytest.approx(2 * 7 / 8 / 50)


def test_remat_computes_part_of_the_forward_pass_again():
    def repeated(remat):
        return recomputed_macs(models.model_config("ViT-L/16"), remat, jax.devices()[0])

    # ViT-L/16 at 224 pixels: 197 tokens of 1024, 24 layers, MLP 4096.
    attention = 24 * 2 * 197**2 * 1024
    products = 24 * 197 * (4 * 1024**2 + 2 * 1024 * 4096)
    assert repeated("none") == repeated("dots") == 0
    assert repeated("dots_no_batch") == attention
    assert repeated("names") == attention / 2
    assert repeated("full") == attention + products
    assert recomputed_macs(models.model_config("BiT-R50x1"), "full", jax.devices()[0]) == 0


def test_the_policy_of_auto_is_that_of_the_platform():
    vit, bit = (models.model_config(name) for name in ("ViT-L/16", "BiT-R50x1"))
    policies = {
        platform: [
            remat_policy(each, each.remat, SimpleNamespace(platform=platform))
            for each in (vit, bit)
        ]
        for platform in ("cpu", "gpu", "tpu")
    }
    assert policies == dict(cpu=["none"] * 2, gpu=["none"] * 2, tpu=["names", "none"])
    chosen = models.model_config("ViT-L/16", remat="full")
    assert remat_policy(chosen, "full", SimpleNamespace(platform="tpu")) == "full"
