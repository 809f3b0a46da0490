"""Strong scaling by formulas: the same batch on more and more chips, and what limits it.

Nothing is compiled. For each number of chips, the data-parallel layout with the least time is taken
among those in whose memory the state fits. Three terms compete:

* compute: the products of the model at an assumed MFU;
* network: the least bytes that the layout sends within a slice (`collectives.minimum`), over all
  links of a chip;
* between slices: the least bytes to other slices, over the data-centre network.

If all of them overlap, a step takes as long as the longest; if nothing does, their sum.
Activations, memory traffic, latency and the shape of the torus are left out. With a measured rate
of the input, waiting for data is a fourth term.
"""

import dataclasses
import math
from typing import Any, cast

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding

from vit_jax.parallel.axes import AXES
from vit_jax.parallel.hardware import Chip
from vit_jax.parallel.rules import partition_spec
from vit_jax.plan import collectives
from vit_jax.plan.report import SECONDS_PER_DAY
from vit_jax.trees import path_name

TERMS = ("compute", "network", "between_slices", "input")


@dataclasses.dataclass(frozen=True)
class Scaling:
    """A run and the chips that it scales over.

    Attributes:
      params: parameters as ShapeDtypeStructs, of any sharding.
      state_bytes: bytes of parameters, optimizer state and averaged parameters.
      dtype: dtype of matrix products.
      batch_size: examples per step.
      flops_per_image: FLOPs of one example's forward and backward pass.
      steps: length of the run.
      chip: chip with its speeds.
      slice_chips: most chips that a slice has.
      mfu: share of the peak that products reach.
      images_per_host: images per second that one host prepares; None: no limit.
      host_chips: chips of one host.
      rounds: whether weights are gathered in bfloat16, see `collectives.minimum`.
    """

    params: Any
    state_bytes: int
    dtype: str
    batch_size: int
    flops_per_image: int
    steps: int
    chip: Chip
    slice_chips: int
    mfu: float
    images_per_host: float | None = None
    host_chips: float = 4
    rounds: bool = True

    def curve(self, numbers: tuple[int, ...]) -> list[dict[str, Any]]:
        """The points of the curve, by `point`, each with its `efficiency`.

        The efficiency is the speed of a chip relative to the first point that is possible.
        """
        points = [self.point(chips) for chips in numbers]
        possible = [point for point in points if point["step_seconds"]]
        for point in points:
            point["efficiency"] = None
            if point["step_seconds"]:
                first = possible[0]
                point["efficiency"] = (first["step_seconds"] * first["chips"]) / (
                    point["step_seconds"] * point["chips"]
                )
        return points

    def point(self, chips: int) -> dict[str, Any]:
        """The step on a number of chips.

        Returns:
          `chips`, `slices`, `images_per_chip`, and of the best layout `layout`, the seconds of
          TERMS, `step_seconds`, `step_seconds_without_overlap`, `days` and `limit`, the longest
          term. Where nothing is possible, `step_seconds` is None and `limit` says why.
        """
        slices = -(-chips // self.slice_chips)
        while chips % slices:
            slices += 1
        start = dict(chips=chips, slices=slices, images_per_chip=self.batch_size / chips)
        nothing = dict(layout=None, step_seconds=None, step_seconds_without_overlap=None, days=None)
        terms = dict.fromkeys(TERMS)
        devices = chips * self.chip.devices
        if self.batch_size % devices:
            return start | terms | nothing | dict(limit="batch: no whole number of images a device")
        if slices > 1 and self.chip.slice_bandwidth is None:
            reason = "bandwidth between slices unknown: --slice-bandwidth"
            return start | terms | nothing | dict(limit=reason)
        inside = devices // slices
        layouts = [self._layout(slices, inside // f, f) for f in _powers(inside)]
        fitting = [layout for layout in layouts if layout]
        if not fitting:
            return start | terms | nothing | dict(limit="memory: the state does not fit")
        best = min(
            fitting, key=lambda one: (one["step_seconds"], one["step_seconds_without_overlap"])
        )
        return start | best

    def _layout(self, replica: int, data: int, fsdp: int) -> dict[str, Any] | None:
        """The step of one layout; None if the state does not fit."""
        chip, devices = self.chip, replica * data * fsdp
        sizes = dict(replica=replica, data=data, fsdp=fsdp)
        shape = tuple(sizes.get(axis, 1) for axis in AXES)
        # Enough of a mesh for layouts; nothing is placed on it.
        mesh = cast(Mesh, AbstractMesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES)))

        def placed(path, leaf):
            spec = partition_spec(path_name(path), leaf.shape, dict(mesh.shape))
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

        params = jax.tree_util.tree_map_with_path(placed, self.params)
        leaves = jax.tree.leaves(params)
        whole = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
        parts = (leaf.sharding.shard_shape(leaf.shape) for leaf in leaves)
        local = sum(
            math.prod(part) * leaf.dtype.itemsize for part, leaf in zip(parts, leaves, strict=True)
        )
        # The state, and the gradients beside it.
        if local * (self.state_bytes / whole + 1) > chip.memory_bytes / chip.devices:
            return None
        sent = collectives.minimum(
            params, mesh, batch_shards=devices, dtype=self.dtype, rounds=self.rounds
        )
        outside = 0
        if replica > 1:
            outside = collectives.minimum_between_slices(
                params, mesh, slices=replica, batch_shards=devices, dtype=self.dtype
            )
        of_all = devices / chip.devices
        seconds = dict(
            compute=self.flops_per_image * self.batch_size / (of_all * chip.bf16_flops * self.mfu),
            network=(sum(sent.values()) - outside) * chip.devices / chip.network_bandwidth,
            between_slices=outside * chip.devices / (chip.slice_bandwidth or 1),
            input=0.0,
        )
        if self.images_per_host is not None:
            hosts = max(of_all / self.host_chips, 1)
            seconds["input"] = self.batch_size / (hosts * self.images_per_host)
        step = max(seconds.values())
        return dict(
            layout=dict(replica=replica, data=data, fsdp=fsdp),
            **seconds,
            step_seconds=step,
            step_seconds_without_overlap=sum(seconds.values()),
            days=step * self.steps / SECONDS_PER_DAY,
            limit=max(TERMS, key=lambda term: seconds[term]),
        )


def _powers(number: int) -> list[int]:
    """Powers of two that divide a number, ascending."""
    result = [1]
    while number % (2 * result[-1]) == 0:
        result.append(2 * result[-1])
    return result
