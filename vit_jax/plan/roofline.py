"""A lower bound on the time of a compiled step, from the chip's peak speeds.

* compute: FLOPs of the model's products (`flops`), including recomputation by remat, at the
  chip's bf16 peak;
* memory: bytes to and from main memory, counted in the compiled step (`traffic`);
* network: bytes that each device sends in collectives (`collectives`), over those links of
  the fast network that lie within the collective's group: on a torus, a group along one
  of two axes has half of a chip's links;
* between_slices: bytes that each device sends to other slices, at the chip's bandwidth of the
  data-centre network.

Computation, memory traffic and the overlapped collectives of either network (those during which
something is computed) run at the same time: the longest counts. The time of the other collectives
is added. Latency, vector units and loading of data are left out, so that this is a lower bound.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import jax

from vit_jax.models import flops
from vit_jax.models.config import ModelConfig
from vit_jax.models.forms.remat import resolve
from vit_jax.models.vit_config import ViTConfig
from vit_jax.parallel.hardware import Chip
from vit_jax.plan.collectives import Collective


def predict(
    *,
    step_flops: float,
    traffic: int,
    found: Iterable[Collective],
    chip: Chip,
    coords: Sequence[tuple[int, ...]] = (),
) -> dict[str, Any]:
    """The seconds of a step on one device, their parts, and the bottleneck.

    Args:
      step_flops: FLOPs of one device, including recomputation.
      traffic: bytes between one device and its main memory.
      found: collectives of the step.
      chip: chip with its peak speeds, of which a device has its share.
      coords: place of every device of the mesh on a torus; empty: all links serve any group.

    Returns:
      Seconds: `compute`, `memory`, `network`, its part `overlapped`, `between_slices`, its part
      `between_slices_overlapped`, and `step`; `bottleneck`: compute, memory, network or
      between_slices.

    Raises:
      ValueError: something is sent between slices, and the chip's bandwidth there is None.
    """
    network, overlapped, outside, outside_overlapped = 0.0, 0.0, 0.0, 0.0
    for collective in found:
        if collective.between_slices:
            if chip.slice_bandwidth is None:
                raise ValueError(f"{chip.name}: the bandwidth between slices is not known")
            seconds = collective.bytes / (chip.slice_bandwidth / chip.devices)
            outside += seconds
            outside_overlapped += seconds if collective.overlapped else 0.0
            continue
        share = links(collective.members, coords) / chip.devices
        seconds = collective.bytes / (chip.network_bandwidth * share)
        network += seconds
        overlapped += seconds if collective.overlapped else 0.0
    compute = step_flops / (chip.bf16_flops / chip.devices)
    memory = traffic / (chip.memory_bandwidth / chip.devices)
    terms = dict(compute=compute, memory=memory, network=network, between_slices=outside)
    exposed = network - overlapped + outside - outside_overlapped
    return dict(
        **terms,
        overlapped=overlapped,
        between_slices_overlapped=outside_overlapped,
        step=max(compute, memory, overlapped, outside_overlapped) + exposed,
        bottleneck=max(terms, key=lambda name: terms[name]),
    )


def links(members: Iterable[int], coords: Sequence[tuple[int, ...]]) -> float:
    """The share of a chip's links that a group uses: its axes of the torus over all axes."""
    axes = _axes(coords)
    inside = _axes([coords[member] for member in members]) if axes else 0
    return inside / axes if inside else 1.0  # within a chip, or no torus at all


def _axes(coords: Sequence[tuple[int, ...]]) -> int:
    """The number of axes along which places differ."""
    return sum(len(set(axis)) > 1 for axis in zip(*coords, strict=True))


def remat_policy(model_config: ModelConfig, device: jax.Device) -> str:
    """The policy of `model.remat` on a device; what `auto` means for a ResNet is none."""
    if not isinstance(model_config, ViTConfig):
        return "none" if model_config.remat == "auto" else model_config.remat
    return resolve(model_config.remat, tpu=device.platform == "tpu")


def recomputed_macs(model_config: ModelConfig, remat: str) -> int:
    """MACs of one image that the backward pass recomputes, by the policy of remat.

    `full` repeats the blocks, `dots_no_batch` attention's two products, `names` the first of
    them, `dots` none.
    """
    if not isinstance(model_config, ViTConfig):
        return 0
    trained = flops.in_training(model_config)
    if remat == "full":
        return flops.encoder_macs(trained)
    if remat == "dots_no_batch" or remat == "names" and not model_config.kind.splits_width:
        return flops.attention_macs(trained)
    return flops.attention_macs(trained) // 2 if remat == "names" else 0
