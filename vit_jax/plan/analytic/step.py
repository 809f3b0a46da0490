"""The analytic plan of a training step: memory, collectives and time, without a compiler."""

import copy
import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, cast

import jax
from jax.sharding import AbstractMesh, Mesh
from ml_collections import ConfigDict

from vit_jax.files import expand
from vit_jax.models.attention.sequence import check_model
from vit_jax.models.config import ModelConfig
from vit_jax.parallel import hardware, rules
from vit_jax.parallel.axes import AXES, BATCH_AXES
from vit_jax.parallel.engines import create_engine
from vit_jax.parallel.mesh import check_batch_size, check_slices, create_mesh, num_slices, slice_of
from vit_jax.plan import roofline
from vit_jax.plan.analytic.activations import Kept, kept_by
from vit_jax.plan.analytic.memory import (
    Memory,
    block_bytes,
    is_looped,
    laid_out,
    replicated,
    step_memory,
)
from vit_jax.plan.analytic.network import predict_collectives
from vit_jax.plan.analytic.traffic import predict_traffic, unhidden_traffic
from vit_jax.plan.collectives import Collective
from vit_jax.plan.compile import Step, memory_of
from vit_jax.train.run import Dataset, Run, prepare
from vit_jax.train.start import starting_weights


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a search chooses: mesh axes and options that trade time for memory."""

    sizes: tuple[tuple[str, int], ...]  # of AXES, in their order
    remat: str
    accumulate: int

    @property
    def mesh(self) -> dict[str, int]:
        """Size of each axis."""
        return dict(self.sizes)

    def options(self) -> dict[str, Any]:
        """The options of a config that give this layout."""
        axes = {f"parallel.{axis}": size for axis, size in self.sizes}
        rest = {"parallel.accumulate": self.accumulate, "model.remat": self.remat}
        return {"parallel.engine": "pjit", "parallel.layout": "given", **axes, **rest}


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A layout's predicted needs."""

    layout: Layout
    memory: Memory
    found: tuple[Collective, ...]
    traffic_bytes: int
    roofline: dict[str, Any] | None  # see `roofline.predict`; None: the chip is not known
    one_by_one: float | None  # seconds if no operations overlap but collectives; None: not known

    @property
    def seconds(self) -> float:
        """What layouts are ranked by; where the chip is not known, more memory is more time."""
        return float(self.memory.total) if self.one_by_one is None else self.one_by_one


class Analyst:
    """Estimates layouts of one configuration on given devices.

    A step is traced once for each policy of remat; after that an estimate takes milliseconds.

    Args:
      config: config of the run; its layout plays no role in `estimate`.
      dataset: facts about its training data.
      devices: devices, which may be descriptions; None: those present.
      slice_bandwidth: bytes/s of one chip to other slices; None: as published.
    """

    def __init__(
        self,
        config: ConfigDict,
        dataset: Dataset,
        devices: Sequence[jax.Device] | None = None,
        slice_bandwidth: float | None = None,
    ):
        self.config = config
        self.dataset = dataset
        self.devices = list(jax.devices() if devices is None else devices)
        self.slice_bandwidth = slice_bandwidth
        self.chip = hardware.find_chip(self.devices[0].device_kind)
        if self.chip and slice_bandwidth is not None:
            self.chip = dataclasses.replace(self.chip, slice_bandwidth=slice_bandwidth)
        self.tpu = self.devices[0].platform == "tpu"
        self._meshes: dict[tuple[tuple[str, int], ...], Mesh] = {}
        # What is traced does not depend on the number of devices; `on` shares it.
        self._runs: dict[str, Run] = {}
        self._kept: dict[str, Kept] = {}
        self._states: dict[tuple[tuple[tuple[str, int], ...], bool], Any] = {}

    def on(self, devices: Sequence[jax.Device]) -> "Analyst":
        """Estimates for other devices of the same kind; nothing is traced again."""
        other = copy.copy(self)
        other.devices = list(devices)
        other._meshes = {}
        return other

    def step(self) -> Step:
        """The step of the config's own layout, as `compile.compile_step` gives it.

        Raises:
          InputError: the config is wrong.
        """
        config = self.config
        run = self._prepared(config, self.devices)
        sizes = {axis: run.engine.mesh.shape.get(axis, 1) for axis in AXES}
        if config.parallel.engine == "pmap":
            sizes["data"] = run.engine.batch_shards
        layout = Layout(tuple(sizes.items()), config.model.remat, config.parallel.accumulate)
        estimate = self._estimate(layout, run.engine.mesh, whole=config.parallel.engine == "pmap")
        memory = estimate.memory
        limit = memory_of(self.devices[0])
        return Step(
            run=run,
            params_bytes=memory.params,
            optimizer_bytes=memory.optimizer,
            ema_bytes=memory.ema,
            batch_bytes=memory.batch,
            temporary_bytes=memory.temporaries,
            limit_bytes=limit,
            fits=limit is None or memory.total <= limit,
            found=estimate.found,
            traffic_bytes=estimate.traffic_bytes,
            operations=None,
            compile_seconds=0.0,
            teacher_bytes=memory.teacher,
            analytic=True,
            one_by_one=estimate.one_by_one,
        )

    def estimate(self, layout: Layout) -> Estimate:
        """The needs of a layout.

        Raises:
          InputError: the batch, the slices or the parameters do not divide so.
        """
        parallel, sizes = self.config.parallel, layout.mesh
        shards = math.prod(sizes[axis] for axis in BATCH_AXES)
        check_batch_size(
            self.config.batch_size, shards, accumulate=layout.accumulate, name="config.batch_size"
        )
        check_model(self.run("none").model_config, sizes["sequence"])
        if self.tpu:
            check_slices(sizes["replica"], num_slices(self.devices))
        mesh: Any = AbstractMesh(tuple(sizes.values()), tuple(sizes))
        rules.check_replication(
            self.run("none").abstract.params, mesh, parallel.replicated_tolerance
        )
        return self._estimate(layout, self._mesh(layout))

    @functools.cached_property
    def start(self) -> ModelConfig | None:
        """The configuration of the model whose weights the run starts from, where they exist."""
        if not expand(self.config.init_from).exists():
            return None
        known = starting_weights(self.config, "")
        return known.model if known else None

    def policy(self, remat: str) -> str:
        """The policy that a value of `model.remat` stands for on these devices."""
        return roofline.remat_policy(self.run("none").model_config, remat, self.devices[0])

    def run(self, remat: str) -> Run:
        """The run with a policy of remat, not `auto`, on a single device."""
        if remat not in self._runs:
            config = copy.deepcopy(self.config)
            config.model.remat = remat
            config.parallel.update(
                engine="pjit", accumulate=1, cpu_devices=0, **dict.fromkeys(AXES, 1)
            )
            run = self._prepared(config, self.devices[:1])
            if roofline.implementation(run.model_config, self.devices[0]) == "cudnn":
                # It can be traced only where cuDNN is; blockwise attention keeps the same arrays.
                config.model.attention = "blockwise"
                run = self._prepared(config, self.devices[:1])
            self._runs[remat] = run
        return self._runs[remat]

    def kept(self, remat: str) -> Kept:
        """What the forward pass keeps with a policy of remat."""
        if remat not in self._kept:
            self._kept[remat] = kept_by(self.run(remat), tiles=self.tpu)
        return self._kept[remat]

    def _prepared(self, config: ConfigDict, devices: Sequence[jax.Device]) -> Run:
        return prepare(config, self.dataset, create_engine(config.parallel, devices), self.start)

    def _mesh(self, layout: Layout) -> Mesh:
        if layout.sizes not in self._meshes:
            parallel = ConfigDict(layout.mesh)
            self._meshes[layout.sizes] = create_mesh(parallel, self.devices)
        return self._meshes[layout.sizes]

    def _state(self, sizes: tuple[tuple[str, int], ...], whole: bool) -> Any:
        if (sizes, whole) not in self._states:
            state, mesh = self.run("none").abstract, dict(sizes)
            self._states[sizes, whole] = (
                replicated(state, mesh) if whole else laid_out(state, state.params, mesh)
            )
        return self._states[sizes, whole]

    def _estimate(self, layout: Layout, mesh: Mesh, whole: bool = False) -> Estimate:
        remat, sizes = self.policy(layout.remat), layout.mesh
        run = self.run(remat)
        state = self._state(layout.sizes, whole)
        kept, without = self.kept(remat), self.kept("none")
        parts = layout.accumulate
        looped = not self.tpu or is_looped(run, sizes, remat)
        memory = step_memory(
            run,
            state,
            sizes,
            accumulate=parts,
            kept=kept,
            whole=without,
            tiles=self.tpu,
            on_chip=self.chip.on_chip if self.chip else 0,
            looped=looped,
        )
        placed = cast(list[Any], mesh.devices.ravel().tolist())
        found = predict_collectives(
            run,
            state.params,
            sizes,
            [slice_of(device) for device in placed],
            accumulate=parts,
            remat=remat,
            tpu=self.tpu,
            chip=self.chip,
            looped=looped,
        )
        if self.chip is None:
            return Estimate(layout, memory, tuple(found), 0, None, None)
        traffic = predict_traffic(
            run,
            state.params,
            sizes,
            memory,
            accumulate=parts,
            kept=kept,
            whole=without,
            working=block_bytes(run, without, without, sizes["tensor"], tiles=self.tpu),
            remat=remat,
            chip=self.chip,
        )
        images = run.config.batch_size / len(placed)
        flops = run.train_flops() + 2 * roofline.recomputed_macs(run.model_config, remat, placed[0])
        predicted = roofline.predict(
            step_flops=images * flops,
            traffic=traffic,
            found=found,
            chip=self.chip,
            coords=[device.coords for device in placed] if self.tpu else (),
        )
        alone = unhidden_traffic(traffic, memory) / (self.chip.memory_bandwidth / self.chip.devices)
        one_by_one = predicted["compute"] + alone + roofline.exposed(predicted)
        one_by_one = max(one_by_one, predicted["step"])  # where memory is the bound
        return Estimate(layout, memory, tuple(found), traffic, predicted, one_by_one)
