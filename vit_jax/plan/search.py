"""Searches for layouts and batch sizes that fit into memory, by compiling each."""

import copy
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from vit_jax.errors import InputError
from vit_jax.models.forms.remat import resolve
from vit_jax.parallel.engines import create_engine
from vit_jax.plan.compile import Step, compile_step
from vit_jax.train.run import Dataset, prepare

log = logging.getLogger(__name__)

REMAT = ("none", "dots_no_batch", "full")  # from least to most recomputation
MAX_ACCUMULATE = 32


class Planner:
    """Compiles variants of one configuration."""

    def __init__(
        self, config: ConfigDict, dataset: Dataset, devices: Sequence[jax.Device] | None = None
    ):
        self.config = config
        self.dataset = dataset
        self.devices = devices
        self._widest: dict[str, Any] = {}

    def compile(self, **options: Any) -> Step:
        """Compiles the step with some options changed, such as `{"model.remat": "full"}`.

        Raises:
          InputError: the config is wrong.
        """
        config = copy.deepcopy(self.config)
        config.update_from_flattened_dict(options)
        log.info("compiling %s", " ".join(as_flags(options)) or "the step")
        return compile_step(config, self.dataset, self.devices)

    def suggest(self, step: Step) -> Iterator[dict[str, Any]]:
        """Tries options that save memory, first one by one, then together; compiles each.

        Args:
          step: compiled step that does not fit.

        Yields:
          Each attempt when it is done: its flags, whether it fits, bytes per device.
        """
        found = False
        self._widest = self._widest_fsdp(step)
        for family in self._single_remedies(step):
            for attempt in self._first_that_fits(family):
                found |= attempt["fits"]
                yield attempt
        if not found:
            yield from self._first_that_fits(self._joint_remedies(step))

    def _first_that_fits(self, variants: Iterator[dict]) -> Iterator[dict[str, Any]]:
        """Compiles variants until one fits; skips those that the config does not allow."""
        for options in variants:
            try:
                step = self.compile(**options)
            except InputError as error:
                log.debug("%s is not possible: %s", " ".join(as_flags(options)), error)
                continue
            yield dict(flags=as_flags(options), fits=step.fits, total_bytes=step.total_bytes)
            if step.fits:
                return

    def _single_remedies(self, step: Step) -> Iterator[Iterator[dict[str, Any]]]:
        """Yields families of remedies, each from the cheapest to the one that saves most."""
        yield ({"model.remat": remat} for remat in self._more_remat(step))
        kept, share = step.total_bytes - step.temporary_bytes, self.config.parallel.accumulate
        limit = math.inf if step.limit_bytes is None else step.limit_bytes
        # Sharding saves at most the state, and as much again of gradients and updates. The
        # fewer devices share a parameter, the less is sent.
        yield (
            options
            for factor, options in self._fsdp(step)
            if step.total_bytes - 2 * kept * (1 - 1 / factor) <= limit
        )
        # Microbatches only make temporaries smaller, at best in proportion to their number.
        yield (
            {"parallel.accumulate": parts}
            for parts in self._more_parts(step)
            if kept + step.temporary_bytes * share / parts <= limit
        )

    def _joint_remedies(self, step: Step) -> Iterator[dict[str, Any]]:
        fsdp = self._widest
        remats = self._more_remat(step)
        for remat in remats:
            if fsdp:
                yield fsdp | {"model.remat": remat}
        strongest = fsdp | ({"model.remat": remats[-1]} if remats else {})
        for parts in self._more_parts(step):
            yield strongest | {"parallel.accumulate": parts}

    def _more_remat(self, step: Step) -> list[str]:
        """Policies that recompute more than the present one."""
        device = (self.devices or jax.devices())[0]
        present = resolve(self.config.model.remat, tpu=device.platform == "tpu")
        return list(REMAT[REMAT.index(present) + 1 :]) if present in REMAT else ["full"]

    def _fsdp(self, step: Step) -> Iterator[tuple[int, dict[str, Any]]]:
        """Layouts that turn data parallelism into fsdp, each with the factor of more shards."""
        sizes = step.run.engine.mesh.shape
        data = sizes.get("data", step.run.engine.batch_shards)  # pmap's mesh has no axis "data"
        for factor in range(2, data + 1):
            if data % factor == 0:
                layout = {"data": data // factor, "fsdp": factor * sizes.get("fsdp", 1)}
                parallel = {f"parallel.{axis}": size for axis, size in layout.items()}
                yield factor, {"parallel.engine": "pjit"} | parallel

    def _widest_fsdp(self, step: Step) -> dict[str, Any]:
        """The layout with most shards that the model's parameters divide; {} if there is none."""
        layouts = [options for _, options in self._fsdp(step)]
        return next(filter(self.accepts, reversed(layouts)), {})

    def accepts(self, options: dict[str, Any]) -> bool:
        """Whether the config is right with some options changed."""
        config = copy.deepcopy(self.config)
        config.update_from_flattened_dict(options)
        try:
            prepare(config, self.dataset, create_engine(config.parallel, self.devices))
        except InputError as error:
            log.debug("%s is not possible: %s", " ".join(as_flags(options)), error)
            return False
        return True

    def _more_parts(self, step: Step) -> list[int]:
        """Larger numbers of microbatches that still divide a device's rows."""
        rows = self.config.batch_size // step.run.engine.batch_shards
        parts = self.config.parallel.accumulate * 2
        result = []
        while parts <= MAX_ACCUMULATE and rows % parts == 0:
            result.append(parts)
            parts *= 2
        return result

    def fit_batch(self, step: Step) -> int:
        """The largest global batch that fits, to within a sixteenth; 0: none.

        Args:
          step: compiled step at the config's own batch size.

        Raises:
          InputError: the memory of the devices is unknown.
        """
        if step.limit_bytes is None:
            kind = step.run.engine.mesh.devices.flat[0].device_kind
            raise InputError(f"--fit-batch: the memory of {kind} is not known, so all would fit")
        unit = step.run.engine.batch_shards * self.config.parallel.accumulate
        start = self.config.batch_size // unit
        # The length is fixed in steps, so that a warm-up fits with any batch size.
        length = {"total.steps": step.run.total_steps, "total.epochs": None, "total.examples": None}

        def fits(parts: int) -> bool:
            if parts == start:
                return step.fits
            return self.compile(batch_size=parts * unit, **length).fits

        return unit * largest(fits, start)


def largest(fits: Callable[[int], bool], start: int, precision: int = 16) -> int:
    """The largest n >= 1 with `fits(n)`; 0: none. Found by doubling and bisection.

    Args:
      fits: function that is True up to some n and False above; called as rarely as possible.
      start: first guess.
      precision: inverse of the relative precision with which n is found.
    """
    low, high, guess = 0, None, start
    while high is None or high - low > max(1, low // precision):
        if fits(guess):
            low = guess
        else:
            high = guess
        guess = 2 * low if high is None else (low + high) // 2
    return low


def as_flags(options: dict[str, Any]) -> list[str]:
    """Options as arguments of the command line."""
    return [f"--config.{name}={value}" for name, value in options.items()]
