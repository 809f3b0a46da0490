"""Where a run's state comes from: its own newest checkpoint, `init_from`, or a fresh start."""

import dataclasses
import logging
from pathlib import Path
from typing import Any, TypedDict

import jax
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from vit_jax import data, schema
from vit_jax.checkpoint.load import read_start, read_weights, stored_model
from vit_jax.checkpoint.local import LocalCopies
from vit_jax.checkpoint.manager import Checkpoints, read_meta
from vit_jax.checkpoint.stored import USE, latest_checkpoint
from vit_jax.data.sources.source import Source
from vit_jax.errors import InputError
from vit_jax.files import expand
from vit_jax.models.config import ModelConfig
from vit_jax.models.vit_config import ViTConfig
from vit_jax.text import reason
from vit_jax.train.optim import copied_parameters
from vit_jax.train.optim.frozen import LORA
from vit_jax.train.optim.frozen import NEVER as PALETTE
from vit_jax.train.run import Run
from vit_jax.train.state import TrainState
from vit_jax.weights import Weights, fit
from vit_jax.weights.fit import check_finite, other_normalization, replace
from vit_jax.weights.palette import normalized, palette_of, read_palette
from vit_jax.weights.preprocessing import Recipe, shown_size

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Start:
    """The weights of `config.init_from`.

    Attributes:
      model: configuration of the model that the weights belong to.
      weights: weights of a published file; None: they are read later, in the layout of the run.
    """

    model: ModelConfig
    weights: Weights | None = None


def starting_weights(config: ConfigDict, workdir: str | Path) -> Start | None:
    """Reads of `config.init_from` what the options of the run's model depend on.

    A resumed run reads its own newest checkpoint instead, so that `init_from` may be gone by
    then.

    Args:
      config: config of the run.
      workdir: workdir of the run, which may not exist yet.

    Returns:
      None where the config names no weights.

    Raises:
      InputError: `init_from` cannot be read.
    """
    if not config.init_from:
        if config.init_adapter:
            raise InputError(
                "config.init_adapter needs the weights that the adapter was trained on in "
                "config.init_from"
            )
        return None
    workdir = expand(workdir)
    if not _is_new(workdir):
        try:
            return Start(stored_model(latest_checkpoint(workdir)))
        except InputError:
            log.debug("no checkpoint in %s; its start is read again", workdir)
    told = {name: value for name, value in config.model.items() if value is not None}
    return Start(*read_start(config.init_from, told, use_ema=config.init_ema))


def _is_new(workdir: Path) -> bool:
    """Whether a run has nothing to resume from."""
    own = workdir / "checkpoints"
    return not (own.is_dir() and any(own.iterdir()))


def check_palette(run: Run, workdir: str | Path) -> None:
    """Refuses a `config.init_palette` that cannot be used, before anything is written.

    A resumed run has its palette, so that the file may be gone by then.

    Raises:
      InputError: the model has no palette, the weights have one, or the file holds another thing.
    """
    if not run.config.init_palette:
        return
    if not _colors(run):
        raise InputError(
            "config.init_palette needs a model of pixels: config.model.name 'iGPT-S', or "
            "model.palette"
        )
    if not _is_new(expand(workdir)):
        return
    if run.config.init_from:
        raise InputError(
            "config.init_palette is for new models; the weights of init_from have their palette"
        )
    read_palette(run.config.init_palette, _colors(run))


def lacks_preprocessing(config: ConfigDict) -> bool:
    """Whether a run on image files leaves their preprocessing to the weights of `init_from`."""
    files = config.data.source.startswith(("folder:", "csv:", "parquet:", "hf:", "tfds:"))
    return bool(config.init_from) and files and not config.data.pp


def with_preprocessing(config: ConfigDict, workdir: str | Path, start: Start | None) -> ConfigDict:
    """A copy of the config with `data.pp`, and `pp` of evaluations, as the weights say.

    Images are evaluated as the weights say; for training, a random box is resized to the same
    size. A resumed run takes what its config.json says.

    Raises:
      InputError: the weights do not give the size of images; the workdir's config.json is damaged.
    """
    config = ConfigDict(config.copy_and_resolve_references())
    own = expand(workdir) / "config.json"
    if own.exists():
        kept = schema.read(own, _Kept)
        training, pp = kept["data"]["pp"], {n: e["pp"] for n, e in kept["evals"].items()}
    else:
        training, usual = preprocessing_of_weights(config, start)
        pp = dict.fromkeys(config.evals, usual)
    config.data.pp = training
    for name, entry in config.evals.items():
        entry.pp = entry.pp or pp.get(name, "")
    log.info("preprocessing as init_from says: %s", training)
    return config.lock()


def preprocessing_known(config: ConfigDict, workdir: str | Path) -> tuple[ConfigDict, Start | None]:
    """The config with its preprocessing, and the weights if they were read to know it.

    Raises:
      InputError: as `starting_weights` and `with_preprocessing`.
    """
    if not lacks_preprocessing(config):
        return config, None
    start = starting_weights(config, str(workdir))
    return with_preprocessing(config, workdir, start), start


class _Data(TypedDict):
    pp: str


class _Kept(TypedDict):
    """What `with_preprocessing` reads of a workdir's config.json."""

    data: _Data
    evals: dict[str, _Data]


def preprocessing_of_weights(config: ConfigDict, start: Start | None) -> tuple[str, str]:
    """The preprocessing for training and for evaluation that `init_from` asks for.

    Raises:
      InputError: the weights do not give the size of images or how pixels are normalised.
    """
    weights = start and start.weights
    spec = weights.pp if weights else read_meta(latest_checkpoint(config.init_from), ["pp"])["pp"]
    pp = evaluation_preprocessing(spec, config.model.image_size)
    if pp is None:
        raise InputError(
            f"config.data.pp is empty, and {config.init_from} does not tell how images are to be "
            "prepared; give it, such as 'decode|inception_crop(224)|flip_lr|value_range(-1, 1)'"
        )
    if pp.naflex or pp.image_size is None:
        return f"decode|flip_lr|{pp.naflex}|{pp.normalization}", str(pp)
    return f"decode|inception_crop({shown_size(pp.image_size)})|flip_lr|{pp.normalization}", str(pp)


def evaluation_preprocessing(spec: str, size: Any) -> data.Preprocess | None:
    """The preprocessing of weights for evaluation, for images of another size if one is given.

    Args:
      spec: preprocessing of the weights.
      size: side in pixels or (height, width); None: that of the weights.

    Returns:
      None where the weights do not tell the size of images or how pixels are normalised.
    """
    pp = data.parse(spec).deterministic()
    size = size or pp.image_size
    if size is None or not pp.normalization:
        return None
    size = (size, size) if isinstance(size, int) else tuple(size)
    if pp.naflex or size == pp.image_size:
        return pp
    return data.parse(Recipe.parse(str(pp)).spec(size))


def first_state(
    run: Run,
    checkpoints: Checkpoints,
    local: LocalCopies,
    source: Source,
    start: Start | None = None,
) -> tuple[int, TrainState, dict[str, Any]]:
    """The state to start from: a newer local copy, the newest checkpoint, `init_from`, or fresh.

    Args:
      run: the run.
      checkpoints: checkpoints of the run.
      local: local copies of the run.
      source: training data of the run.
      start: result of `starting_weights`.

    Returns:
      The number of steps that led to the state, the state, and the metadata of the checkpoint
      ({} where there was none).

    Raises:
      InputError: a checkpoint does not fit the config or the data, or none is good.
    """
    wanted = run.abstract.items()
    if copied := local.restore(wanted, checkpoints.latest()):
        step, items, meta = copied
    elif found := checkpoints.restore_newest(wanted, USE):
        step, items = found
        meta = read_meta(checkpoints.directory / str(step))
    else:
        return 0, _new_state(run, checkpoints.directory.parent, start, source), {}
    since = f"step {step} of the run in {checkpoints.directory.parent}"
    data.check_unchanged(source, meta["data"]["fingerprint"], since)
    return step, TrainState.from_items(items), meta


def _colors(run: Run) -> int:
    """The number of colours of the model's palette; 0: its tokens are patches."""
    return run.model_config.palette if isinstance(run.model_config, ViTConfig) else 0


def _new_palette(run: Run, source: Source) -> np.ndarray:
    """The palette of a new model, in the units of its images."""
    config, colors = run.config, _colors(run)
    if config.init_palette:
        palette = read_palette(config.init_palette, colors)
    else:
        log.info("finding %d colours by k-means on training images", colors)
        palette = palette_of(source, data.parse(config.data.pp), colors, config.seed)
    return normalized(palette, run.task.setting.mean, run.task.setting.std)


def _new_state(run: Run, workdir: Path, start: Start | None, source: Source) -> TrainState:
    """A fresh state, with the weights of `init_from` if given; init_from.txt reports on them."""
    loaded: dict[str, Any] = {}
    if not run.config.init_from and _colors(run):
        loaded[PALETTE] = _new_palette(run, source)
    state = run.engine.init(run.create)
    if run.config.init_from:
        loaded, report = pretrained(run, start.weights if start else None)
        if jax.process_index() == 0:
            path = workdir / "init_from.txt"
            try:
                path.write_text("\n".join(report) + "\n")
            except OSError as error:
                raise InputError(f"cannot write {path}: {reason(error)}") from error
    if not loaded:
        return state
    params = replace(state.params, loaded)
    ema = None if state.ema is None else replace(state.ema, loaded)
    copied = {
        path: loaded[parameter]
        for path, parameter in copied_parameters(state.opt_state).items()
        if parameter in loaded
    }
    return state.replace(params=params, ema=ema, opt_state=replace(state.opt_state, copied))


def pretrained(run: Run, weights: Weights | None = None) -> tuple[dict[str, Any], list[str]]:
    """The parameters that the model takes from `config.init_from`.

    Args:
      run: the run.
      weights: weights of a published file, if they were read already.

    Returns:
      Path -> array, and a report that accounts for every tensor, in lines.

    Raises:
      InputError: they do not fit the model, or are not finite.
    """
    config = run.config
    engine = run.engine

    def layout(path: str, shape: tuple[int, ...]) -> jax.sharding.Sharding:
        # Position embeddings may have to be resized, which happens on every host.
        whole = "posemb" in path.split("/")
        return engine.replicated if whole else engine.parameter_sharding(path, shape)

    if weights is None:
        weights = read_weights(config.init_from, use_ema=config.init_ema, layout=layout)
    if config.init_adapter:
        from vit_jax.weights.adapters.peft import with_adapter

        weights = with_adapter(weights, config.init_adapter)
    target = traverse_util.flatten_dict(run.abstract.params, sep="/")
    try:
        fitted = fit(
            traverse_util.flatten_dict(weights.params, sep="/"),
            weights.config,
            run.model_config,
            resample=config.init_resample,
            skip=(*config.init_skip, LORA, *run.task.own_params),
            target={path: tuple(leaf.shape) for path, leaf in target.items()},
        )
    except InputError as error:
        raise InputError(
            f"init_from {config.init_from} does not fit config.model: {error}; config.init_skip "
            "leaves parameters out"
        ) from None
    check_finite(fitted.params, config.init_from)
    if PALETTE in fitted.fresh:
        raise InputError(
            f"config.init_skip leaves out {PALETTE}, the colours that the weights were trained on"
        )
    report = [
        *weights.report,
        *fitted.report,
        *other_normalization(weights.pp, run.task.setting.mean, run.task.setting.std),
    ]
    for line in report:
        log.info("%s", line)
    return fitted.params, report
