"""Predicts the memory, network traffic and time of a training run from its compiled step."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from vit_jax.models import flops
from vit_jax.models.vit_config import ViTConfig
from vit_jax.parallel import hardware
from vit_jax.parallel.mesh import num_slices
from vit_jax.plan import collectives, cycles, roofline
from vit_jax.plan.compile import Step
from vit_jax.train.run import Run

SECONDS_PER_DAY = 86_400
# Table 2 of the paper (2010.11929): model, images seen in pre-training, TPUv3-core-days.
PAPER_CORE_DAYS = (
    ("ViT-H/14", 14 * 303_000_000, 2500),
    ("ViT-L/16", 14 * 303_000_000, 680),
    ("ViT-L/16", 90 * 14_197_122, 230),
)


def describe(step: Step, *, mfu: float, slice_bandwidth: float | None = None) -> dict[str, Any]:
    """Describes the whole run, given its compiled step.

    Args:
      step: compiled step of the run.
      mfu: assumed model FLOPs utilisation, the share of the chips' bf16 peak that the model's
        products reach.
      slice_bandwidth: bytes per second of one chip to other slices, one direction; None: the
        published figure.

    Returns:
      A document for JSON. Bytes are per device; FLOPs are those of the forward and the
      backward pass, without recomputation by remat; None means unknown.
    """
    run, config = step.run, step.run.config
    devices = run.engine.mesh.devices
    chip = hardware.find_chip(devices.flat[0].device_kind)
    if chip and slice_bandwidth is not None:
        chip = dataclasses.replace(chip, slice_bandwidth=slice_bandwidth)
    images = run.total_steps * config.batch_size
    per_image = run.train_flops()
    bound = _roofline(step, chip)
    fastest = bound["step"] if bound else 0.0
    return dict(
        model=run.model_name,
        image_size=list(run.model_config.image_size),
        batch_size=config.batch_size,
        device=devices.flat[0].device_kind,
        devices=devices.size,
        analytic=step.analytic,  # by formulas; nothing was compiled
        slices=num_slices(devices.flat),
        layout=layout(config, run),
        params=sum(leaf.size for leaf in jax.tree.leaves(run.abstract.params)),
        flops_per_image=per_image,
        flops_per_run=per_image * images,
        attention_saved=flops.saved_by_kind(run.model_config),
        steps=run.total_steps,
        images=images,
        **step.memory(),
        **_network(step),
        roofline=bound,
        estimates=_estimates(step, bound, chip),
        **run_time(run, per_image, images, chip, mfu, fastest),
    )


def layout(config: ConfigDict, run: Run) -> dict[str, Any]:
    """The layout of the run: mesh axes above 1, and options that save memory."""
    sizes = {axis: size for axis, size in run.engine.mesh.shape.items() if size > 1}
    result = dict(engine=config.parallel.engine, **sizes)
    remat = _remat(run)
    if remat != "none":
        result["remat"] = remat
    if config.parallel.accumulate > 1:
        result["accumulate"] = config.parallel.accumulate
    return result


def _network(step: Step) -> dict[str, Any]:
    """The collectives of the step, and the minimum that the layout needs."""
    least = minimum(step.run)
    numbers: dict[str, Any] = dict(
        collectives=None,
        collective_bytes_per_step=None,
        collective_bytes_overlapped=None,  # the part that is sent while something is computed
        collectives_minimum=least,
        collective_bytes_minimum=sum(least.values()),
        # The part that uses the data-centre network.
        collectives_between_slices=None,
        collective_bytes_between_slices=None,
        collective_bytes_between_slices_overlapped=None,
        collective_bytes_between_slices_minimum=minimum_between_slices(step.run),
    )
    if step.found is not None:
        outside = collectives.between_slices(step.found)
        if step.run.engine.mesh.devices.flat[0].platform != "tpu":
            # Any axis may cross the network between nodes, not only that of the gradients.
            numbers["collective_bytes_between_slices_minimum"] = sum(c.bytes for c in outside)
        numbers.update(
            collectives=collectives.by_kind(step.found),
            collective_bytes_per_step=sum(c.bytes for c in step.found),
            collective_bytes_overlapped=sum(c.bytes for c in step.found if c.overlapped),
            collectives_between_slices=collectives.by_kind(outside),
            collective_bytes_between_slices=sum(c.bytes for c in outside),
            collective_bytes_between_slices_overlapped=sum(
                c.bytes for c in outside if c.overlapped
            ),
        )
    return numbers


def _roofline(step: Step, chip: hardware.Chip | None) -> dict[str, Any] | None:
    """`roofline.predict` and the `mfu` at that speed; None without known chip or compiled step."""
    if chip is None or step.found is None or step.traffic_bytes is None:
        return None
    run = step.run
    placed = list(run.engine.mesh.devices.flat)
    found = roofline.predict(
        step_flops=_flops_of_device(run),
        traffic=step.traffic_bytes,
        found=step.found,
        chip=chip,
        coords=[device.coords for device in placed] if hasattr(placed[0], "coords") else (),
    )
    images = run.config.batch_size / len(placed)
    useful = images * run.train_flops() / (chip.bf16_flops / chip.devices)
    return dict(**found, traffic_bytes=step.traffic_bytes, mfu=useful / found["step"])


def _remat(run: Run) -> str:
    """The policy of remat on the run's devices."""
    model = run.model_config
    return roofline.remat_policy(model, model.remat, run.engine.mesh.devices.flat[0])


def _flops_of_device(run: Run) -> float:
    """FLOPs of one device in a step, with what remat computes again."""
    devices, model = run.engine.mesh.devices, run.model_config
    again = roofline.recomputed_macs(model, _remat(run), devices.flat[0])
    return run.config.batch_size / devices.size * (run.train_flops() + 2 * again)


def _estimates(
    step: Step, bound: dict[str, Any] | None, chip: hardware.Chip | None
) -> dict[str, Any] | None:
    """`cycles.predict`; None without a roofline."""
    if bound is None or chip is None:
        return None
    if step.operations is None:
        if step.one_by_one is None:
            return None
        return dict(per_operation=step.one_by_one, copies_beside=None, compiler=None)
    return cycles.predict(step.operations, bound, _flops_of_device(step.run), chip)


def minimum(run: Run) -> dict[str, int]:
    """See `collectives.minimum`."""
    config, model = run.config, run.model_config
    rows = config.batch_size // run.engine.batch_shards
    values = 0
    if isinstance(model, ViTConfig):
        tokens = model.prefix_tokens + model.kept_patches
        values = rows * -(-tokens // run.engine.mesh.shape.get("sequence", 1)) * model.width
    return collectives.minimum(
        run.abstract.params,
        run.engine.mesh,
        batch_shards=run.engine.batch_shards,
        dtype=config.model.dtype,
        microbatches=config.parallel.accumulate,
        activation_bytes=values * jnp.dtype(config.model.dtype).itemsize,
        rounds=run.engine.mesh.devices.flat[0].platform == "tpu",
    )


def minimum_between_slices(run: Run) -> int:
    """See `collectives.minimum_between_slices`."""
    slices = num_slices(run.engine.mesh.devices.flat)
    if slices == 1:
        return 0
    return collectives.minimum_between_slices(
        run.abstract.params,
        run.engine.mesh,
        slices=slices,
        batch_shards=run.engine.batch_shards,
        dtype=run.config.model.dtype,
    )


def run_time(
    run: Run,
    per_image: int,
    images: int,
    chip: hardware.Chip | None,
    mfu: float,
    fastest: float = 0.0,
) -> dict[str, Any]:
    """Days at an assumed MFU, TPU-core-days on this chip and on TPU v3, and the paper's.

    No step is faster than `fastest` seconds, whatever the MFU.
    """
    v3 = hardware.TPU_V3
    core_seconds = per_image * images / (v3.bf16_flops / v3.cores)  # of TPU v3 at its peak
    numbers = dict(
        mfu=mfu,
        step_seconds=None,
        bound_by_roofline=False,
        days=None,
        tpu_core_days=None,
        tpu_v3_core_days=core_seconds / mfu / SECONDS_PER_DAY,
        paper_tpu_v3_core_days=None,
        paper_mfu=None,
    )
    if chip:
        chips = run.engine.mesh.devices.size / chip.devices
        seconds = per_image * run.config.batch_size / (chips * chip.bf16_flops * mfu)
        numbers["bound_by_roofline"] = fastest > seconds
        seconds = max(seconds, fastest)
        days = seconds * run.total_steps / SECONDS_PER_DAY
        numbers.update(step_seconds=seconds, days=days)
        if chip.name.startswith("TPU"):
            numbers["tpu_core_days"] = days * chips * chip.cores
    for name, seen, core_days in PAPER_CORE_DAYS:
        # Training splits may leave out about a percent.
        if name == run.model_name and abs(images - seen) < 0.03 * seen:
            numbers["paper_tpu_v3_core_days"] = core_days
            numbers["paper_mfu"] = core_seconds / (core_days * SECONDS_PER_DAY)
    return numbers
