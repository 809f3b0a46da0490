"""A run's checkpoints: asynchronous, atomic, restored onto any layout (Orbax).

A checkpoint is a directory `checkpoints/<step>/` with the items

* `params`: the parameters; `ema`: their averages, where the run keeps them;
* `train`: everything else of the train state (step counters, optimizer);
* `meta`: JSON; model, preprocessing, labels, data: enough to use it alone.
"""

import json
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from orbax.checkpoint.checkpoint_managers import preservation_policy as preserve

from vit_jax.errors import InputError
from vit_jax.parallel.rules import path_name


class Checkpoints:
    """The checkpoints of one workdir."""

    def __init__(self, workdir: str | Path, config: ConfigDict):
        """Opens or creates `workdir`/checkpoints.

        Args:
          workdir: of the run.
          config: `config.checkpoint`: how many stay.
        """
        policies = [preserve.LatestN(max(1, config.keep))]
        if config.keep_every:
            policies.append(preserve.EveryNSteps(config.keep_every))
        if config.best:
            policies.append(preserve.BestN(lambda metrics: metrics[config.best], n=1))
        self.directory = Path(workdir).absolute() / "checkpoints"
        self._best = config.best
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=preserve.AnyPreservationPolicy(policies)
            ),
        )

    def latest(self) -> int | None:
        """The newest complete checkpoint's step."""
        return self._manager.latest_step()

    def save(
        self, step: int, items: dict[str, Any], meta: dict[str, Any], metrics: dict[str, float]
    ) -> None:
        """Starts writing a checkpoint and returns; it appears when it is complete.

        Args:
          step: how many steps led to it.
          items: name -> pytree of arrays, which may be donated right afterwards.
          meta: see the module.
          metrics: of the last evaluation; `config.checkpoint.best` is looked up in them.
        """
        if self._manager.latest_step() == step:
            return
        ranked = {self._best: metrics.get(self._best, float("-inf"))} if self._best else None
        saves = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        self._manager.save(
            step,
            args=ocp.args.Composite(meta=ocp.args.JsonSave(meta), **saves),
            metrics=ranked,
            force=True,
        )

    def restore(self, step: int, items: dict[str, Any]) -> dict[str, Any]:
        """The arrays of a checkpoint in the layout that `items` asks for.

        Args:
          step: which checkpoint.
          items: name -> pytree of ShapeDtypeStructs with shardings.

        Raises:
          InputError: the checkpoint's arrays are not those of `items`; names all that differ.
        """
        check_shapes(self.directory / str(step), items)
        restores = {name: ocp.args.StandardRestore(tree) for name, tree in items.items()}
        return dict(self._manager.restore(step, args=ocp.args.Composite(**restores)).items())

    def wait(self) -> None:
        """Blocks until what `save` started is complete."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Completes pending writes and frees resources."""
        self._manager.close()


def stored_shapes(checkpoint: Path, item: str) -> dict[str, tuple[int, ...]]:
    """Path -> shape of the arrays of one item, {} where the checkpoint lacks it.

    Args:
      checkpoint: a directory `checkpoints/<step>`.
      item: "params", "ema" or "train".
    """
    if not (checkpoint / item).is_dir():
        return {}
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.metadata(checkpoint / item).item_metadata.tree
    return {
        path_name(path): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(
            tree, is_leaf=lambda node: hasattr(node, "shape")
        )
    }


def check_shapes(checkpoint: Path, items: dict[str, Any]) -> None:
    """Refuses to restore into arrays that are not those of the checkpoint.

    Raises:
      InputError: lists what is missing, unexpected or misshapen, with both shapes.
    """
    problems = []
    for item, tree in items.items():
        found = stored_shapes(checkpoint, item)
        wanted = {
            path_name(path): tuple(leaf.shape)
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }
        problems += [
            f"{item}/{name}: checkpoint {found.get(name, 'has none')}, "
            f"config {wanted.get(name, 'has none')}"
            for name in sorted(found.keys() | wanted.keys())
            if found.get(name) != wanted.get(name)
        ]
    if problems:
        raise InputError(f"{checkpoint} does not fit the config: " + "; ".join(problems))


def latest_checkpoint(path: str | Path) -> Path:
    """The checkpoint directory that a workdir, its checkpoints/ or a checkpoint itself names.

    Raises:
      InputError: there is none.
    """
    path = Path(path).absolute()
    for folder in (path / "checkpoints", path):
        if folder.is_dir():
            steps = [int(entry.name) for entry in folder.iterdir() if _is_checkpoint(entry)]
            if steps:
                return folder / str(max(steps))
    if _is_checkpoint(path):
        return path
    what = "holds no complete checkpoint" if path.exists() else "does not exist"
    raise InputError(f"{path} {what}; give a workdir, a checkpoint directory or a weight file")


def _is_checkpoint(path: Path) -> bool:
    return path.name.isdigit() and (path / "_CHECKPOINT_METADATA").exists()


def read_meta(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint knows about itself.

    Raises:
      InputError: it is damaged.
    """
    try:
        return json.loads((checkpoint / "meta" / "metadata").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"{checkpoint} is damaged: {error}") from error


def read_params(checkpoint: Path, *, use_ema: bool = False) -> Any:
    """The parameters of a checkpoint (or their averages) on this process's first device.

    Raises:
      InputError: the averages are asked for and the checkpoint has none.
    """
    item = "ema" if use_ema else "params"
    shapes = stored_shapes(checkpoint, item)
    if not shapes:
        raise InputError(f"{checkpoint} holds no {item}; train with config.optimizer.ema_decay")
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.metadata(checkpoint / item).item_metadata.tree
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
        )
        return checkpointer.restore(checkpoint / item, abstract)
