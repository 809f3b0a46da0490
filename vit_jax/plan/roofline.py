"""A lower bound on the time of a compiled step, from the chip's peak speeds.

* compute: FLOPs of the model's products (`flops`), including recomputation by remat, at the
  chip's bf16 peak;
* memory: bytes to and from main memory, counted in the compiled step (`traffic`);
* network: bytes that each device sends in collectives (`collectives`), over those links of
  the fast network that lie within the collective's group: on a torus, a group along one
  of two axes has half of a chip's links, and half of those if the axis is no ring (`links`);
* between_slices: bytes that each device sends to other slices, at the chip's bandwidth of the
  data-centre network.

Computation, memory traffic and the overlapped collectives of either network (those during which
something is computed) run at the same time: the longest counts. The time of the other collectives
is added. Latency, vector units and loading of data are left out, so that this is a lower bound.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax.models import flops
from vit_jax.models.attention.fused.choice import RECOMPUTED, choose
from vit_jax.models.attention.sequence import KINDS
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
        share = links(collective.members, coords, chip) / chip.devices
        seconds = collective.bytes / (chip.network_bandwidth * share)
        network += seconds
        overlapped += seconds if collective.overlapped else 0.0
    compute = step_flops / (chip.bf16_flops / chip.devices)
    memory = traffic / (chip.memory_bandwidth / chip.devices)
    terms = dict(compute=compute, memory=memory, network=network, between_slices=outside)
    result = dict(**terms, overlapped=overlapped, between_slices_overlapped=outside_overlapped)
    longest = max(compute, memory, overlapped, outside_overlapped)
    bottleneck = max(terms, key=lambda name: terms[name])
    return result | dict(step=longest + exposed(result), bottleneck=bottleneck)


def exposed(terms: Mapping[str, Any]) -> float:
    """Seconds of collectives that nothing overlaps, of the terms that `predict` returns."""
    within = terms["network"] - terms["overlapped"]
    return within + terms["between_slices"] - terms["between_slices_overlapped"]


def links(members: Iterable[int], coords: Sequence[tuple[int, ...]], chip: Chip) -> float:
    """The share of a chip's links that a group's rings use.

    Each axis of the torus has an equal share of the links. A group that fills an axis whose ends
    are connected uses all of them. Otherwise the places along the axis are a line, whose ends have
    a neighbour on one side only: that takes twice as long, so that half of the links count.

    Args:
      members: positions in the mesh of the group's devices.
      coords: place of every device of the mesh; empty: there is no torus.
      chip: the chip, which says how many axes there are and which are rings.
    """
    places = [coords[member] for member in members] if coords else []
    spans = _spans(places)
    if not chip.axes or all(span == 1 for span in spans):
        return 1.0  # within a chip, or no torus at all
    sides = _spans(coords)
    share = sum(
        1.0 if span == sides[axis] and chip.wraps(sides, axis) else 0.5
        for axis, span in enumerate(spans)
        if span > 1
    )
    return share / chip.axes


def _spans(coords: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The number of different places along each axis."""
    return tuple(len(set(axis)) for axis in zip(*coords, strict=True))


def remat_policy(model_config: ModelConfig, remat: str, device: jax.Device) -> str:
    """What a value of `model.remat` stands for on a device; `auto` means none for a ResNet."""
    tpu = device.platform == "tpu" and isinstance(model_config, ViTConfig)
    return resolve(remat, tpu=tpu)


def recomputed_macs(model_config: ModelConfig, remat: str, device: jax.Device) -> int:
    """MACs of one image that the backward pass recomputes, by the policy of remat.

    `full` repeats the blocks, `dots_no_batch` attention's two products, `names` the first of
    them, `dots` none. On top come those of a fused attention on this device.
    """
    if not isinstance(model_config, ViTConfig):
        return 0
    config = flops.in_training(model_config)
    attention = flops.attention_macs(config)
    again = _recomputed_products(config, device)
    fused = attention * again // 2
    if remat == "full":
        return flops.encoder_macs(config) + fused
    if remat == "dots_no_batch" or remat == "names" and not model_config.kind.splits_width:
        return attention + fused
    # Fused attention, whose output `names` keeps, computes the products of keys itself.
    return attention // 2 if remat == "names" and not again else fused


def _recomputed_products(config: ViTConfig, device: jax.Device) -> int:
    """Products of queries and keys' size that attention's backward pass computes again."""
    return RECOMPUTED[implementation(config, device)]


def implementation(config: ModelConfig, device: jax.Device) -> str:
    """The implementation of attention that a model takes in training; see `fused.choice`."""
    if not isinstance(config, ViTConfig):
        return "xla"
    fused = config.attention_kind.partition("(")[0] in KINDS or config.attention == "splash"
    if not fused or config.attention_dropout:
        return "xla"
    return choose(
        config.attention,
        queries=config.num_tokens,
        keys=config.num_tokens,
        dtype=jnp.dtype(config.dtype),
        head_width=config.width // config.num_heads,
        biased=config.position_bias != "none"
        or config.posemb.partition("(")[0] == "relative"
        or bool(config.naflex),
        platform=device.platform,
        kind=device.device_kind,
    )
