"""`config.parallel.layout=auto`: the layout of a run, chosen for the devices at hand."""

import copy
import logging
from collections.abc import Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from vit_jax.errors import InputError
from vit_jax.options import defaults
from vit_jax.parallel.agree import from_first
from vit_jax.parallel.distributed import suited_devices
from vit_jax.parallel.mesh import ParallelOptions
from vit_jax.plan.analytic.step import Analyst
from vit_jax.plan.layouts.candidates import nothing_fits
from vit_jax.plan.layouts.search import FREE, Ranking, rank
from vit_jax.plan.layouts.text import short
from vit_jax.train.run import Dataset

log = logging.getLogger(__name__)


def arrange(
    config: ConfigDict,
    dataset: Dataset,
    devices: Sequence[jax.Device] | None = None,
    *,
    topology: str = "",
    slices: int = 1,
) -> ConfigDict:
    """The config with its layout chosen, where it says `parallel.layout=auto`.

    Mesh sizes, accumulation and remat that have their defaults are chosen by formulas, for the
    least predicted step that fits into memory; other values stay. Process 0 chooses for all.

    Args:
      config: config of the run; it is not changed.
      dataset: facts about its training data.
      devices: devices of all processes, which may be descriptions; None: those present.
      topology, slices: names of the devices for messages, as `--topology` and `--slices`.

    Returns:
      The config with `parallel.layout=given`; the same config if it says so already.

    Raises:
      InputError: no layout fits, or the engine has only one.
    """
    if config.parallel.layout != "auto":
        return config
    if config.parallel.engine != "pjit":
        raise InputError(
            f"config.parallel.layout=auto: the engine {config.parallel.engine} has one layout; set "
            "config.parallel.engine to pjit, or config.parallel.layout to given"
        )
    config = copy.deepcopy(config)
    config.parallel.layout = "given"
    devices = devices or suited_devices(config.parallel, config.batch_size)

    def choose() -> dict[str, Any]:
        analyst = Analyst(config, dataset, devices)
        try:
            ranking = _rank(analyst, _given(config))
        except InputError as error:
            return dict(problem=str(error))
        if not ranking.fitting:
            problem = nothing_fits(analyst, ranking, _given(config), topology, slices)
            return dict(problem=f"config.parallel.layout=auto: {problem}")
        return dict(options=ranking.fitting[0].layout.options())

    found = from_first(choose)
    if "problem" in found:
        raise InputError(found["problem"])
    config.update_from_flattened_dict(found["options"])
    log.info("layout: %s", short(found["options"]))
    return config


def _rank(analyst: Analyst, given: dict[str, Any]) -> Ranking:
    """A ranking with the default of remat, traced once; others only where it fits nowhere."""
    if "model.remat" not in given:
        ranking = rank(analyst, given | {"model.remat": "auto"})
        if ranking.fitting:
            return ranking
    return rank(analyst, given)


def _given(config: ConfigDict) -> dict[str, Any]:
    """Options of a layout that do not have their defaults."""
    plain = {f"parallel.{name}": value for name, value in defaults(ParallelOptions).items()}
    plain["model.remat"] = "auto"
    values = {name: config[name.split(".")[0]][name.split(".")[1]] for name in FREE}
    return {name: value for name, value in values.items() if value != plain[name]}
