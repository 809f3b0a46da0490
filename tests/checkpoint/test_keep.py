"""Which checkpoints of a run stay."""

import ml_collections
import numpy as np
import pytest

from tests.checkpoint.test_manager import abstract_items, on_devices, options, truncate
from vit_jax.checkpoint import damage, stored
from vit_jax.checkpoint.keep import expendable
from vit_jax.checkpoint.manager import Checkpoints


def test_deletion_never_costs_the_only_good_checkpoint():
    """Whatever is kept and whatever is damaged."""
    rng = np.random.default_rng()
    for _ in range(500):
        steps = sorted(rng.choice(40, rng.integers(0, 9), replace=False).tolist())
        sound = {step for step in steps if rng.random() < 0.6}
        scores = {step: rng.choice([-np.inf, rng.random()]) for step in steps}
        config = ml_collections.ConfigDict(
            dict(keep=int(rng.integers(0, 4)), best="", keep_every=0)
        )
        config.keep_every, config.best = int(rng.choice([0, 10])), str(rng.choice(["", "top1"]))
        gone = expendable(steps, config, sound.__contains__, scores.__getitem__)
        keep = max(1, config.keep)
        left = sound.difference(gone)
        newest = sorted(sound)[-keep:]
        assert left.issuperset(newest)
        if config.best and sound:
            assert max(scores[step] for step in left) == max(scores[step] for step in sound)
        if config.keep_every:
            assert not any(step % config.keep_every == 0 for step in gone)
        if len(sound) <= keep:
            assert not sound.intersection(gone)
        elif not config.best and not config.keep_every:
            assert sorted(left) == newest  # and no more than asked for stays


def test_what_stays(tmp_path):
    config = options(keep=1, keep_every=3, best="eval/top1")
    checkpoints = Checkpoints(tmp_path, config)
    top1 = {1: 0.1, 2: 0.9, 3: 0.2, 4: float("nan"), 5: 0.3}
    for step in range(1, 8):
        metrics = {"eval/top1": top1[step]} if step in top1 else {}
        checkpoints.save(step, on_devices("one device", step), {}, metrics)
    checkpoints.close()
    assert stored.steps_in(checkpoints.directory) == [2, 3, 6, 7]
    # The next run knows which was best.
    checkpoints = Checkpoints(tmp_path, config)
    checkpoints.save(8, on_devices("one device", 8), {}, {"eval/top1": 0.8}, wait=True)
    assert stored.steps_in(checkpoints.directory) == [2, 3, 6, 8]


def test_of_losses_the_lowest_is_best(tmp_path):
    checkpoints = Checkpoints(tmp_path, options(keep=1, best="eval/loss"))
    for step, loss in enumerate((0.5, 0.2, 0.9, float("nan"), 0.3), 1):
        checkpoints.save(step, on_devices("one device", step), {}, {"eval/loss": loss})
    checkpoints.close()
    assert stored.steps_in(checkpoints.directory) == [2, 5]


def test_states_of_bad_steps_displace_no_sound_checkpoint(tmp_path):
    checkpoints = Checkpoints(tmp_path, options(keep=1, best="eval/top1"))
    for step, bad in enumerate((0, 1, 2, 0, 3), 1):
        metrics = {"eval/top1": 0.1 * step}
        checkpoints.save(step, on_devices("one device", step), {"bad_steps": bad}, metrics)
        checkpoints.wait()
        left = {1: [1], 2: [1, 2], 3: [1, 2, 3], 4: [4], 5: [4, 5]}[step]
        assert stored.steps_in(checkpoints.directory) == left
    assert checkpoints.sound() == [4]
    # The run itself goes on from there, as if it had not stopped.
    assert checkpoints.restore_newest(abstract_items("one device"))[0] == 5


def test_damage_after_the_save_keeps_the_older_checkpoint(tmp_path):
    """keep=1: step 2 goes once 3 is complete, unless 3 is no good."""
    checkpoints = Checkpoints(tmp_path, options(keep=1))
    for step in (1, 2):
        checkpoints.save(step, on_devices("one device", step), {}, {}, wait=True)
    assert stored.steps_in(checkpoints.directory) == [2]
    record = damage.record_files

    def record_and_harm(folder):
        record(folder)
        truncate(folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(damage, "record_files", record_and_harm)
        checkpoints.save(3, on_devices("one device", 3), {}, {}, wait=True)
    assert stored.steps_in(checkpoints.directory) == [2, 3]
    assert checkpoints.restore_newest(abstract_items("one device"))[0] == 2
