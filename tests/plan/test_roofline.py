"""Predicted steps against closed forms."""

import dataclasses
from types import SimpleNamespace

import pytest

from vit_jax import models
from vit_jax.parallel.hardware import Chip
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


def test_links_lead_along_the_axes_of_a_group():
    torus = [(x, y, 0) for x in range(4) for y in range(4)]
    assert links(range(16), torus) == 1
    assert links(range(4), torus) == links([0, 4, 8, 12], torus) == 0.5
    assert links([0, 1, 4, 5], torus) == 1
    assert links([0], torus) == links(range(4), []) == 1
    slow = predict(
        step_flops=0,
        traffic=0,
        found=[Collective("all-reduce", 10**9, 4, 1, "", members=(0, 1, 2, 3))],
        chip=Chip("Y", 1, 1, 1, 1e9),
        coords=torus,
    )
    assert slow["network"] == pytest.approx(2 * 3 / 4 / 0.5)


def test_remat_computes_part_of_the_forward_pass_again():
    def repeated(remat):
        return recomputed_macs(models.model_config("ViT-L/16"), remat)

    # ViT-L/16 at 224 pixels: 197 tokens of 1024, 24 layers, MLP 4096.
    attention = 24 * 2 * 197**2 * 1024
    products = 24 * 197 * (4 * 1024**2 + 2 * 1024 * 4096)
    assert repeated("none") == repeated("dots") == 0
    assert repeated("dots_no_batch") == attention
    assert repeated("names") == attention / 2
    assert repeated("full") == attention + products
    assert recomputed_macs(models.model_config("BiT-R50x1"), "full") == 0


def test_the_policy_of_auto_is_that_of_the_platform():
    vit, bit = (models.model_config(name) for name in ("ViT-L/16", "BiT-R50x1"))
    policies = {
        platform: [remat_policy(each, SimpleNamespace(platform=platform)) for each in (vit, bit)]
        for platform in ("cpu", "gpu", "tpu")
    }
    assert policies == dict(cpu=["none"] * 2, gpu=["none"] * 2, tpu=["names", "none"])
    chosen = models.model_config("ViT-L/16", remat="full")
    assert remat_policy(chosen, SimpleNamespace(platform="tpu")) == "full"
