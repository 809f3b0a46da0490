"""Which checkpoint of a workdir is read."""

import jax.numpy as jnp
import pytest

from vit_jax import config as configs
from vit_jax.checkpoint.choose import chosen_checkpoint
from vit_jax.checkpoint.manager import Checkpoints
from vit_jax.errors import InputError


def write(workdir, entries, best=""):
    """Writes a checkpoint for each (metrics, bad steps), as steps 1, 2, ..."""
    options = configs.default().checkpoint
    options.keep = 99
    checkpoints = Checkpoints(workdir, options)
    for step, (metrics, bad) in enumerate(entries, 1):
        meta = dict(config=dict(checkpoint=dict(best=best)), bad_steps=bad)
        items = dict(params={"x": jnp.zeros(3)})
        assert checkpoints.save(step, items, meta, metrics, wait=True)
    checkpoints.close()
    return checkpoints.directory


TOP1, LOSS = "eval/test/top1", "eval/test/loss"


@pytest.mark.parametrize(
    ("best", "entries", "step", "why"),
    [
        ("", [({TOP1: 0.9}, 0), ({TOP1: 0.5}, 0)], 2, ""),
        (TOP1, [({TOP1: 0.57}, 0), ({TOP1: 0.54}, 0)], 1, "the best by eval/test/top1 (0.57); "),
        (TOP1, [({TOP1: 0.5}, 0), ({TOP1: 0.5}, 0)], 2, "the best by eval/test/top1 (0.5)"),
        (LOSS, [({LOSS: 0.2}, 0), ({LOSS: 0.3}, 0), ({}, 0)], 1, "the best by eval/test/loss"),
        (LOSS, [({LOSS: 0.2}, 0), ({LOSS: None}, 0)], 1, "the best by eval/test/loss"),
        (LOSS, [({LOSS: float("nan")}, 0), ({}, 0)], 2, ""),
        (TOP1, [({TOP1: 0.5}, 0), ({TOP1: 0.6}, 0), ({TOP1: 0.9}, 2)], 2, "the best by "),
        ("", [({}, 0), ({}, 0), ({}, 2)], 2, "the newest with finite steps; the newest is "),
        ("", [({}, 1), ({}, 2)], 2, ""),
        (3, [({TOP1: 0.5}, 0), ({}, 0)], 2, ""),
    ],
)
@pytest.mark.parametrize("under", ["", "checkpoints"])
def test_the_best_where_the_run_kept_one(best, entries, step, why, under, tmp_path):
    folder = write(tmp_path, entries, best)
    found, reason = chosen_checkpoint(tmp_path / under)
    assert found == folder / str(step) and reason.startswith(why) and bool(reason) == bool(why)
    for given in range(1, len(entries) + 1):  # an explicit step wins
        assert chosen_checkpoint(folder / str(given)) == (folder / str(given), "")


def test_damage(tmp_path):
    """A damaged best checkpoint is passed over; a damaged newest one is refused as before."""
    entries = [({TOP1: value}, 0) for value in (0.7, 0.8, 0.6)]
    folder = write(tmp_path, entries, TOP1)
    (folder / "2" / "params" / "_METADATA").unlink()
    assert chosen_checkpoint(tmp_path)[0].name == "1"
    (folder / "3" / "params" / "_METADATA").unlink()
    with pytest.raises(InputError, match=f"3 is damaged: .*; give {folder}/1$"):
        chosen_checkpoint(tmp_path)
