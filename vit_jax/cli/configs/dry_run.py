"""`--dry-run`: a run up to its first step, which is compiled, not done; no workdir is touched."""

import contextlib
import json
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from vit_jax import data
from vit_jax.checkpoint.damage import DamagedCheckpoint
from vit_jax.checkpoint.manager import read_meta
from vit_jax.checkpoint.stored import latest_checkpoint, steps_in
from vit_jax.cli.processes import print_once
from vit_jax.data.inspect import sizes
from vit_jax.data.sources.source import Source
from vit_jax.parallel.distributed import make_cpu_devices
from vit_jax.plan.compile import compile_run
from vit_jax.plan.layouts.auto import arrange
from vit_jax.text import some
from vit_jax.train.batches import TrainingBatches, open_training_data
from vit_jax.train.config import check
from vit_jax.train.evaluations import open_evaluations
from vit_jax.train.health.early_stop import EarlyStop
from vit_jax.train.log.progress import shown_log
from vit_jax.train.resume import check_length
from vit_jax.train.run import Dataset, Run, given_engine, intervals, prepare
from vit_jax.train.start import (
    lacks_preprocessing,
    pretrained,
    starting_weights,
    with_preprocessing,
)
from vit_jax.train.workdir import check_workdir, compare_starts

NOWHERE = "/dev/null/workdir"  # where no workdir is given, and none can be


def show(config: ConfigDict, workdir: str | None, *, as_json: bool) -> None:
    """Prints what a run would begin with.

    Raises:
      InputError: the run would be refused.
    """
    with shown_log():
        document = rehearse(config, workdir)
    print_once(json.dumps(document, indent=2) if as_json else "\n".join(lines(document)))


def rehearse(config: ConfigDict, workdir: str | None) -> dict[str, Any]:
    """Goes through the start of a run, as `train.loop.train` does, without its workdir.

    Args:
      config: config of the run.
      workdir: its workdir, which may not exist; None: a new one.

    Returns:
      A document for JSON: model, parameters, mesh and layout of the parameters, bytes per
      device, steps, data, evaluations, and the first batch.

    Raises:
      InputError: the run would be refused.
    """
    check(config)
    make_cpu_devices(config.parallel.cpu_devices)
    compare_starts(config, workdir or NOWHERE)
    engine = given_engine(config, arrange)
    start = starting_weights(config, workdir or NOWHERE)
    if lacks_preprocessing(config):
        config = with_preprocessing(config, workdir or NOWHERE, start)
    source, pp, dataset = open_training_data(config)
    config = arrange(config, dataset)
    run = prepare(config, dataset, engine, start.model if start else None)
    open_evaluations(run, source, pp)
    EarlyStop(config.checkpoint)
    every = intervals(config, dataset)
    done = 0
    if workdir is not None:
        path = check_workdir(workdir, config)
        done = _newest_step(run, path, source)
    if config.init_from and not done:
        pretrained(run, start.weights if start else None)
    run.with_teacher(None)
    first = _first_batch(run, source, pp, done)
    return dict(
        workdir=workdir,
        step=done,
        **_model(run),
        **compile_run(run).memory(),
        steps=run.total_steps,
        epochs=run.total_steps * config.batch_size / dataset.size,
        eval_every=every["eval_every"],
        checkpoint_every=every["checkpoint.every"],
        batch_size=config.batch_size,
        data=_data(source, dataset) | dict(preprocessing=str(pp)),
        evals=_evaluations(config),
        batch=first,
    )


def _newest_step(run: Run, path: Path, source: Source) -> int:
    """The step of the checkpoint from which the run would go on; 0 for a new one."""
    if not steps_in(path / "checkpoints"):
        return 0
    with contextlib.suppress(DamagedCheckpoint):  # the start takes the one before
        newest = latest_checkpoint(path)
        meta = read_meta(newest)
        since = f"step {newest.name} of the run in {path}"
        data.check_unchanged(source, meta["data"]["fingerprint"], since)
        check_length(run, path, int(newest.name))
        return int(newest.name)
    return steps_in(path / "checkpoints")[-1]


def _model(run: Run) -> dict[str, Any]:
    leaves = jax.tree.leaves_with_path(run.abstract.params)
    layouts: dict[str, dict[str, Any]] = {}
    for path, leaf in leaves:
        spec = "replicated" if leaf.sharding.is_fully_replicated else _spec(leaf.sharding)
        name = "/".join(str(getattr(part, "key", part)) for part in path)
        entry = layouts.setdefault(spec, dict(tensors=0, params=0, examples=[]))
        entry["tensors"] += 1
        entry["params"] += leaf.size
        entry["examples"] = [*entry["examples"], name][:2]
    mesh = run.engine.mesh
    return dict(
        model=run.model_name,
        image_size=list(run.model_config.image_size),
        params=sum(leaf.size for _, leaf in leaves),
        engine=run.config.parallel.engine,
        device=mesh.devices.flat[0].device_kind,
        devices=mesh.devices.size,
        mesh=dict(mesh.shape),
        layouts=layouts,
    )


def _spec(sharding: Any) -> str:
    return str(tuple(sharding.spec))


def _first_batch(run: Run, source: Source, pp: data.Preprocess, step: int) -> dict[str, Any]:
    """Name -> shape, dtype and part of one device, of the first batch."""
    batches = TrainingBatches(run, source, pp, start_step=step)
    with contextlib.closing(batches):
        batch = next(batches)
    return {
        name: dict(
            shape=list(array.shape),
            dtype=str(array.dtype),
            per_device=list(array.addressable_shards[0].data.shape),
        )
        for name, array in batch.items()
    }


def _data(source: Source, dataset: Dataset) -> dict[str, Any]:
    return sizes(source) | dict(labels=list(dataset.labels))


def _evaluations(config: ConfigDict) -> dict[str, Any]:
    found = {}
    for name, entry in sorted(config.evals.items()):
        splits = [entry[key] for key in ("split", "train", "test", "val") if entry.get(key)]
        for split in splits:
            opened = data.open_configured(config.data, source=entry.source, split=split)
            found[name if len(splits) == 1 else f"{name} ({split})"] = sizes(opened)
    return found


def lines(document: dict[str, Any]) -> list[str]:
    """The document as lines of text."""
    size = "x".join(map(str, document["image_size"]))
    axes = {axis: size for axis, size in document["mesh"].items() if size > 1}
    mesh = ", ".join(f"{axis} {size}" for axis, size in axes.items()) or "one device"
    rows = [
        ("model", f"{document['model']} at {size}, {document['params']:,} parameters"),
        ("devices", f"{document['devices']} {document['device']}, {document['engine']}: {mesh}"),
    ]
    for layout, entry in document["layouts"].items():
        text = f"{entry['tensors']} tensors, {entry['params']:,} parameters: {layout}"
        rows.append(("layout", f"{text}, such as {', '.join(entry['examples'])}"))
    parts = {name: size for name, size in document["bytes_per_device"].items() if size}
    limit = document["memory_per_device"]
    of = f" of {_bytes(limit)}" if limit else ""
    verdict = "fits" if document["fits"] else "does not fit"
    listed = ", ".join(f"{name} {_bytes(size)}" for name, size in parts.items())
    rows.append(("memory", f"{listed}{of} a device: {verdict}"))
    done = f", of which {document['step']:,} are done" if document["step"] else ""
    rows.append(
        (
            "steps",
            f"{document['steps']:,} of {document['batch_size']:,} examples, "
            f"{document['epochs']:.4g} epochs{done}",
        )
    )
    found = document["data"]
    rows.append(("data", _sizes(found)))
    rows.append(("preprocessing", found["preprocessing"]))
    if found["labels"]:
        rows.append(("classes", some(found["labels"], 6)))
    rows += [("evaluation", f"{name}: {_sizes(one)}") for name, one in document["evals"].items()]
    for name, one in document["batch"].items():
        shape, part = tuple(one["shape"]), tuple(one["per_device"])
        rows.append(("batch", f"{name} {shape} {one['dtype']}, {part} a device"))
    rows.append(
        ("", "dry run: everything up to the first step is in order; no workdir was touched")
    )
    return [f"{name:14} {text}".strip() for name, text in rows]


def _sizes(one: dict[str, Any]) -> str:
    text = f"{one['source']}, {one['split']}: {one['examples']:,} examples"
    return f"{text}, {one['classes']} classes"


def _bytes(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 / 100 else f"{size / 2**20:.2f} MiB"
