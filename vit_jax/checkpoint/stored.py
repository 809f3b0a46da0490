"""Reading finished checkpoints; see vit_jax.checkpoint.manager for their contents."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import jax

from vit_jax import schema
from vit_jax.checkpoint.damage import (
    MARKER,
    METADATA,
    DamagedCheckpoint,
    find_damage,
    is_step,
)
from vit_jax.checkpoint.fingerprint import fingerprints
from vit_jax.errors import InputError
from vit_jax.files import expand
from vit_jax.text import first_line, root_logger_kept, some
from vit_jax.trees import named_leaves, path_name


class Task(TypedDict):
    """The task of a run in its metadata."""

    name: NotRequired[str]
    own_params: NotRequired[list[str]]


class Teacher(TypedDict):
    """The teacher of a distillation in the metadata."""

    model: NotRequired[str]
    path: NotRequired[str]
    fingerprint: str


class Model(TypedDict):
    """The model in the metadata: its name, and options of `create_model`."""

    name: str


class Data(TypedDict):
    """The training data in the metadata."""

    name: NotRequired[str]
    split: NotRequired[str]
    fingerprint: dict[str, int | str]


class Spikes(TypedDict):
    """The memory of `train.health.spikes` in the metadata."""

    count: NotRequired[int]
    high: NotRequired[bool]
    losses: NotRequired[list[float]]


class EarlyStop(TypedDict):
    """The memory of `train.health.early_stop` in the metadata."""

    best: NotRequired[float | None]
    since: NotRequired[int]


class RunData(TypedDict):
    """`data` in the config of a run."""

    source: NotRequired[str | None]
    split: NotRequired[str]
    max_pixels: NotRequired[int]


class StoredEvaluation(TypedDict):
    """An entry of `evals` in the config of a run."""

    type: NotRequired[str]
    source: NotRequired[str | None]
    split: NotRequired[str]
    use_ema: NotRequired[bool]
    tta: NotRequired[str]


class RunConfig(TypedDict):
    """The config of a run, as far as others read it."""

    task: NotRequired[str]
    seed: NotRequired[int]
    data: NotRequired[RunData]
    loss: NotRequired[dict[str, Any]]
    mixup: NotRequired[dict[str, Any]]
    distill: NotRequired[dict[str, Any]]
    evals: NotRequired[dict[str, StoredEvaluation]]
    checkpoint: NotRequired[dict[str, Any]]
    lora: NotRequired[dict[str, Any]]
    init_from: NotRequired[str | None]


class Metadata(TypedDict):
    """The metadata of a checkpoint. `USE` names the keys that every run writes."""

    model: NotRequired[Model]
    task: NotRequired[Task]
    pp: NotRequired[str]
    labels: NotRequired[list[str]]
    data: NotRequired[Data]
    config: NotRequired[RunConfig]
    step: NotRequired[int]  # earlier versions did not write it
    metrics: NotRequired[dict[str, float | None]]
    fingerprints: NotRequired[dict[str, dict[str, int]] | None]
    spikes: NotRequired[Spikes | None]
    unreadable: NotRequired[int]
    bad_steps: NotRequired[int]
    early_stop: NotRequired[EarlyStop | None]
    teacher: NotRequired[Teacher | None]


USE = ("model", "pp", "labels", "data", "config")


def steps_in(directory: Path) -> list[int]:
    """The steps of all complete checkpoints in a directory `checkpoints`, damaged or not."""
    if not directory.is_dir():
        return []
    return sorted(int(entry.name) for entry in directory.iterdir() if _is_checkpoint(entry))


def _is_checkpoint(path: Path) -> bool:
    """Whether a path is a checkpoint, damaged or not."""
    if not (is_step(path.name) and path.is_dir()):
        return False
    return path.parent.name == "checkpoints" or (path / MARKER).exists()


def latest_checkpoint(path: str | Path) -> Path:
    """The newest checkpoint in a workdir or its checkpoints/, or a checkpoint itself.

    Raises:
      DamagedCheckpoint: its files have changed; names one of them and an intact checkpoint.
      InputError: there is no checkpoint.
    """
    path = expand(path).absolute()
    for folder in (path / "checkpoints", path):
        if steps := steps_in(folder):
            return _undamaged(folder / str(steps[-1]))
    if _is_checkpoint(path):
        return _undamaged(path)
    what = "holds no complete checkpoint" if path.exists() else "does not exist"
    raise InputError(f"{path} {what}; give a workdir, a checkpoint directory or a weight file")


def _undamaged(checkpoint: Path) -> Path:
    if problem := find_damage(checkpoint):
        raise damaged(checkpoint, problem)
    return checkpoint


def damaged(checkpoint: Path, problem: str) -> DamagedCheckpoint:
    """The error for a damaged checkpoint; it names the newest undamaged one as the remedy."""
    others = (step for step in steps_in(checkpoint.parent)[::-1] if str(step) != checkpoint.name)
    good = (step for step in others if find_damage(checkpoint.parent / str(step)) is None)
    step = next(good, None)
    remedy = "no other there is good" if step is None else f"give {checkpoint.parent / str(step)}"
    return DamagedCheckpoint(f"{checkpoint} is damaged: {problem}; {remedy}")


def read_meta(checkpoint: Path, needed: Sequence[str] = ()) -> dict[str, Any]:
    """The metadata of a checkpoint, as `Metadata` describes them.

    Args:
      checkpoint: a directory `checkpoints/<step>`.
      needed: keys that have to be there.

    Raises:
      DamagedCheckpoint: it cannot be read, or a key is missing or has another type.
    """
    try:
        meta = schema.check(schema.parse((checkpoint / METADATA).read_bytes()), Metadata)
    except (OSError, ValueError) as error:
        raise damaged(checkpoint, f"{METADATA}: {error}") from error
    for key in needed:
        if key not in meta:
            raise damaged(checkpoint, f"{METADATA}: {key} is missing")
    return meta


def stored_arrays(checkpoint: Path, item: str) -> dict[str, jax.ShapeDtypeStruct]:
    """Path -> shape and dtype of the arrays of one item; {} if the checkpoint lacks the item.

    Args:
      checkpoint: a directory `checkpoints/<step>`.
      item: "params", "ema" or "train".
    """
    if not (checkpoint / item).is_dir():
        return {}
    tree = _metadata(checkpoint / item)
    leaves = named_leaves(tree, is_leaf=lambda node: hasattr(node, "shape"))
    return {
        path: jax.ShapeDtypeStruct(tuple(leaf.shape), leaf.dtype) for path, leaf in leaves.items()
    }


def check_shapes(
    checkpoint: Path, stored: dict[str, dict[str, jax.ShapeDtypeStruct]], items: dict[str, Any]
) -> None:
    """Checks that a checkpoint's arrays have the shapes that a run expects.

    Args:
      checkpoint: checkpoint directory, for the message.
      stored: item -> result of `stored_arrays`.
      items: item -> pytree of ShapeDtypeStructs.

    Raises:
      InputError: names the first of what is missing, unexpected or misshapen, with both shapes.
    """
    problems = []
    for item, tree in items.items():
        found = {name: leaf.shape for name, leaf in stored[item].items()}
        wanted = {path: tuple(leaf.shape) for path, leaf in named_leaves(tree).items()}
        problems += [
            f"{item}/{name}: checkpoint {found.get(name, 'has none')}, "
            f"config {wanted.get(name, 'has none')}"
            for name in sorted(found.keys() | wanted.keys())
            if found.get(name) != wanted.get(name)
        ]
    if problems:
        raise InputError(f"{checkpoint} does not fit the config: {some(problems, 3, '; ')}")


def read_item(checkpoint: Path, item: str, stored: dict[str, Any], tree: Any) -> Any:
    """Reads the arrays of one item in their stored types and in the layout of `tree`.

    Processes read their parts independently: if one fails, no other waits for it.

    Args:
      checkpoint: a directory `checkpoints/<step>`.
      item: name of the item.
      stored: result of `stored_arrays` for the item.
      tree: pytree of ShapeDtypeStructs with shardings, of the same paths.
    """
    as_written = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jax.ShapeDtypeStruct(
            leaf.shape, stored[path_name(path)].dtype, sharding=leaf.sharding
        ),
        tree,
    )
    return _restore(checkpoint / item, as_written)


def _metadata(item: Path) -> Any:
    """The tree of an item's arrays as Orbax describes them."""
    with root_logger_kept():
        import orbax.checkpoint as ocp  # takes long, and a new run reads no checkpoint

        return ocp.StandardCheckpointHandler().metadata(item).tree


def _restore(item: Path, wanted: Any) -> Any:
    with root_logger_kept():
        import orbax.checkpoint as ocp

        handler = ocp.StandardCheckpointHandler()
        return handler.restore(item, args=ocp.args.StandardRestore(wanted))


def changed_arrays(items: dict[str, Any], recorded: dict[str, dict[str, int]]) -> list[str]:
    """The "item/path" of all arrays whose fingerprint differs from the recorded one.

    Args:
      items: item -> pytree of arrays, just read.
      recorded: item -> path -> fingerprint.
    """
    return [
        f"{item}/{name}"
        for item, found in fingerprints_of(items).items()
        for name, fingerprint in found.items()
        if recorded.get(item, {}).get(name) != fingerprint
    ]


def fingerprints_of(items: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Item -> path -> fingerprint; see vit_jax.checkpoint.fingerprint."""
    return {item: fingerprints(tree) for item, tree in items.items()}


# The layout of a parameter by its path and shape.
Layout = Callable[[str, tuple[int, ...]], jax.sharding.Sharding]


def read_params(checkpoint: Path, *, use_ema: bool = False, layout: Layout | None = None) -> Any:
    """Reads the parameters of a checkpoint, or their moving averages.

    Args:
      checkpoint: a directory `checkpoints/<step>`.
      use_ema: whether to read the averages.
      layout: sharding of each parameter; None: whole, on this process's first device.

    Raises:
      DamagedCheckpoint: the arrays cannot be read or have changed.
      InputError: `use_ema` is set and the checkpoint has no averages.
    """
    item = "ema" if use_ema else "params"
    if not (checkpoint / item).is_dir():
        raise InputError(f"{checkpoint} holds no {item}; train with config.optimizer.ema_decay")
    whole = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    layout = layout or (lambda path, shape: whole)
    try:
        wanted = jax.tree_util.tree_map_with_path(
            lambda path, leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=layout(path_name(path), tuple(leaf.shape))
            ),
            _metadata(checkpoint / item),
        )
        tree = _restore(checkpoint / item, wanted)
    except (MemoryError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:
        raise damaged(checkpoint, first_line(error)) from error
    recorded = read_meta(checkpoint).get("fingerprints")
    if recorded and (changed := changed_arrays({item: tree}, recorded)):
        raise damaged(checkpoint, f"{some(changed)} changed since it was written")
    return tree
