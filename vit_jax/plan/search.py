"""Searches for layouts and batch sizes that fit into memory, by compiling each."""

import copy
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from vit_jax.errors import InputError
from vit_jax.options import flatten
from vit_jax.plan.analytic.step import Analyst
from vit_jax.plan.compile import Step, compile_step
from vit_jax.plan.layouts.search import MAX_ACCUMULATE, best_of_each, rank, tried
from vit_jax.plan.layouts.text import short
from vit_jax.plan.layouts.waiting import announced
from vit_jax.plan.roofline import remat_policy
from vit_jax.train.run import Dataset

log = logging.getLogger(__name__)

MAX_LAYOUTS = 3  # of a search, that are compiled until one fits


class Planner:
    """Compiles variants of one configuration, or predicts them by formulas.

    Args:
      config: config of the run.
      dataset: facts about its training data.
      devices: devices, which may be descriptions; None: those present.
      analytic: whether to use formulas instead of the compiler.
      slice_bandwidth: bytes/s of one chip to other slices; None: as published.
    """

    def __init__(
        self,
        config: ConfigDict,
        dataset: Dataset,
        devices: Sequence[jax.Device] | None = None,
        *,
        analytic: bool = False,
        slice_bandwidth: float | None = None,
    ):
        self.config = config
        self.dataset = dataset
        self.devices = devices
        self.analytic = analytic
        self.slice_bandwidth = slice_bandwidth

    def compile(self, **options: Any) -> Step:
        """Compiles the step with some options changed, such as `{"model.remat": "full"}`.

        Raises:
          InputError: the config is wrong.
        """
        config = copy.deepcopy(self.config)
        config.update_from_flattened_dict(options)
        if self.analytic:
            return self._analyst(config).step()
        with announced(f"compiling {short(options) or 'the step'}"):
            return compile_step(config, self.dataset, self.devices)

    def _analyst(self, config: ConfigDict) -> Analyst:
        return Analyst(config, self.dataset, self.devices, self.slice_bandwidth)

    def suggest(self, step: Step) -> Iterator[dict[str, Any]]:
        """Tries layouts that save memory.

        First more remat or microbatches on the same mesh, then the layouts that a search finds
        the fastest of those that fit. Each is compiled, unless the plan is analytic.

        Args:
          step: step that does not fit.

        Yields:
          Each attempt when it is done: its flags, whether it fits, bytes per device.
        """
        for family in (*self._single_remedies(step), self._layouts(step)):
            yield from self._first_that_fits(family)

    def _first_that_fits(self, variants: Iterator[dict]) -> Iterator[dict[str, Any]]:
        """Compiles variants until one fits; skips those that the config does not allow."""
        for options in variants:
            try:
                step = self.compile(**options)
            except InputError as error:
                log.warning("%s is not possible: %s", " ".join(as_flags(options)), error)
                continue
            yield dict(flags=as_flags(options), fits=step.fits, total_bytes=step.total_bytes)
            if step.fits:
                return

    def _single_remedies(self, step: Step) -> Iterator[Iterator[dict[str, Any]]]:
        """Yields families of remedies, each from the cheapest to the one that saves most."""
        yield ({"model.remat": remat} for remat in self._more_remat(step))
        kept, share = step.total_bytes - step.temporary_bytes, self.config.parallel.accumulate
        limit = math.inf if step.limit_bytes is None else step.limit_bytes
        # Microbatches only make temporaries smaller, at best in proportion to their number.
        yield (
            {"parallel.accumulate": parts}
            for parts in self._more_parts(step)
            if kept + step.temporary_bytes * share / parts <= limit
        )

    def _layouts(self, step: Step) -> Iterator[dict[str, Any]]:
        """The fastest layouts that fit by the formulas, each of another mesh."""
        found = rank(self._analyst(self.config), limit=step.limit_bytes).fitting
        for each in best_of_each(found)[:MAX_LAYOUTS]:
            yield changed(each.layout.options(), self.config)

    def _more_remat(self, step: Step) -> list[str]:
        """Policies that recompute more than the present one."""
        device = (self.devices or jax.devices())[0]
        model = step.run.model_config
        present, known = remat_policy(model, model.remat, device), tried(model)
        return known[known.index(present) + 1 :] if present in known else ["full"]

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


def changed(options: dict[str, Any], config: ConfigDict) -> dict[str, Any]:
    """Those of some options that differ from the config."""
    present = dict(flatten(config.to_dict()))
    return {name: value for name, value in options.items() if present[name] != value}
