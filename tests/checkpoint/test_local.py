"""Copies of the state that processes keep for themselves, and a slice that loses its own."""

import json
import shutil
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tests.processes import SLEEPY_OPERATION, outputs_of, start_two
from vit_jax import config as configs
from vit_jax.checkpoint import local
from vit_jax.checkpoint.local import LocalCopies
from vit_jax.checkpoint.stored import read_meta
from vit_jax.cli.main import main
from vit_jax.errors import InputError
from vit_jax.parallel.spread import own_parts, parts_of, place, spread
from vit_jax.train import loop

MESH = (2, 2, 2)


def leaf(shape, dtype, *spec):
    mesh = Mesh(np.array(jax.devices()).reshape(MESH), ("replica", "fsdp", "tensor"))
    sharding = NamedSharding(mesh, PartitionSpec(*spec))
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


LEAVES = [
    leaf((8, 6), jnp.float32, "fsdp", "tensor"),
    leaf((8, 6), jnp.bfloat16, ("fsdp", "tensor")),
    leaf((4,), jnp.float32),
    leaf((), jnp.int32),
    leaf((6, 4), jnp.bool_, None, "tensor"),
    leaf((16,), jnp.int8, ("replica", "fsdp", "tensor")),
]


def arrays():
    """One of each kind, with the bit patterns that a sum of floats would not keep."""
    rng = np.random.default_rng(0)
    values = []
    for each in LEAVES:
        kind = f"u{np.dtype(each.dtype).itemsize}"
        bits = rng.integers(0, 2 if each.dtype == bool else 250, each.shape).astype(kind)
        values.append(bits.view(each.dtype))
    values[2] = np.array([-0.0, np.nan, np.inf, 1e-45], np.float32)
    return [
        jax.device_put(value, each.sharding) for each, value in zip(LEAVES, values, strict=True)
    ]


def bits(array):
    return np.asarray(array).tobytes()


def test_parts_are_the_same_for_all_and_each_once():
    array = arrays()[0]
    parts = parts_of(array)
    assert [len(devices) for devices in parts.values()] == [2] * 4  # the two replicas
    assert list(parts)[:2] == [((0, 4), (0, 3)), ((0, 4), (3, 6))]
    whole = np.asarray(array)
    for (rows, columns), value in own_parts(array).items():
        np.testing.assert_array_equal(value, whole[slice(*rows), slice(*columns)])


@pytest.mark.parametrize("chosen", [0, -1])
def test_one_device_of_each_group_suffices(chosen):
    sources = arrays()
    values = []
    for array in sources:
        own = own_parts(array)
        values.append({devices[chosen]: own[part] for part, devices in parts_of(array).items()})
    for made, array in zip(spread(LEAVES, values), sources, strict=True):
        assert made.sharding == array.sharding and made.dtype == array.dtype
        assert bits(made) == bits(array)
        for shard in made.addressable_shards:  # of every device, not of the first alone
            assert bits(shard.data) == bits(np.asarray(array)[shard.index])


def test_own_parts_are_placed_as_they_are():
    sources = arrays()
    values = []
    for array in sources:
        own = own_parts(array)
        every = {d: own[part] for part, devices in parts_of(array).items() for d in devices}
        values.append(every)
    for made, array in zip(place(LEAVES, values), sources, strict=True):
        assert bits(made) == bits(array) and made.sharding == array.sharding


def options(folder, **more):
    config = configs.default().checkpoint
    config.update(local=str(folder), **more)
    return config


@pytest.fixture
def copies(tmp_path):
    """Copies of steps 3 and 5, the one of step 1 deleted again."""
    (tmp_path / "work").mkdir()
    found = LocalCopies(tmp_path / "work", options(tmp_path / "memory"), every=2).started(0)
    for step in (1, 3, 5):
        found.save(step, state(step), dict(step=step, spikes=[1.5]))
    found.close()
    return tmp_path


def state(step):
    tree = {"params": dict(enumerate_names(arrays())), "train": {"step": np.int32(step)}}
    tree["train"]["step"] = jax.device_put(np.int32(step), LEAVES[3].sharding)
    return tree


def enumerate_names(values):
    return {f"p{i}": value for i, value in enumerate(values)}


def wanted():
    return {"params": enumerate_names(LEAVES), "train": {"step": LEAVES[3]}}


def opened(folder):
    return LocalCopies(folder / "work", options(folder / "memory"), every=2)


def the_files(folder):
    return sorted(path.name for path in (folder / "memory").rglob("*.npz"))


def test_the_newest_copy_comes_back_bit_by_bit(copies):
    assert the_files(copies) == ["3.npz", "5.npz"]
    step, items, meta = opened(copies).restore(wanted(), newest=4)
    assert step == 5 and meta == dict(step=5, spikes=[1.5])
    assert jax.tree.structure(items) == jax.tree.structure(wanted())
    jax.tree.map(lambda a, b: np.testing.assert_equal(bits(a), bits(b)), items, state(5))


def test_a_copy_no_newer_than_the_checkpoint_is_of_no_use(copies):
    assert opened(copies).restore(wanted(), newest=5) is None


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_copy_is_passed_over(damage, copies, caplog):
    (path,) = (copies / "memory").rglob("5.npz")
    content = bytearray(path.read_bytes())
    if damage == "flipped":  # a byte of an array; zip's directory at the end stays
        content[content.index(np.asarray(state(5)["params"]["p2"]).tobytes())] ^= 1
    path.write_bytes({"cut": content[:-30], "flipped": content, "empty": b""}[damage])
    step, _, _ = opened(copies).restore(wanted(), newest=None)
    assert step == 3 and "5.npz is damaged" in caplog.text


def test_no_damage_ends_a_start(copies, caplog):
    """Each byte of zip's directory in turn, which says where parts are and how they are packed."""
    (path,) = (copies / "memory").rglob("5.npz")
    content = path.read_bytes()
    begin = content.rindex(b"PK\x01\x02")
    for byte in range(begin, len(content), 3):
        damaged = bytearray(content)
        damaged[byte] ^= 0xFF
        path.write_bytes(damaged)
        step, items, _ = opened(copies).restore(wanted(), newest=None)
        jax.tree.map(lambda a, b: np.testing.assert_equal(bits(a), bits(b)), items, state(step))


def test_copies_of_what_a_run_did_not_go_on_from_are_gone(copies):
    """A start from a checkpoint, with copies or without: what it does next replaces them all."""
    plain = LocalCopies(copies / "work", options(""), None)
    assert plain.restore(wanted(), newest=2) is None
    plain.started(2)
    assert opened(copies).restore(wanted(), newest=2) is None
    # Nor does a copy that comes back from elsewhere count after the next start with copies.
    again = opened(copies).started(2)
    assert the_files(copies) == []
    again.save(4, state(4), {})
    again.close()
    assert opened(copies).restore(wanted(), newest=2)[0] == 4


def test_the_workdir_may_be_spelt_in_another_way(copies):
    (copies / "link").symlink_to(copies / "work")
    for name in ("link", "work/../work"):
        found = LocalCopies(copies / name, options(copies / "memory"), every=2)
        assert found.restore(wanted(), newest=None)[0] == 5


@pytest.mark.parametrize(
    "value, message",
    [
        ("gs://bucket/x", ", which is no directory of a host; give"),
        ("{tmp}/file", "but {tmp}/file is not a directory; give a directory in memory"),
        ("{tmp}/file/below", "but {tmp}/file is not a directory; give a directory in memory"),
    ],
)
def test_what_is_no_directory_is_refused_before_anything_is_made(value, message, tmp_path, capsys):
    (tmp_path / "file").touch()
    value, message = (text.format(tmp=tmp_path) for text in (value, message))
    args = ["train", "--config=configs/quickstart.py:pretrain", f"--workdir={tmp_path / 'run'}"]
    for more in ([], ["--dry-run"]):
        assert main([*args, f"--config.checkpoint.local={value}", *more]) == 2
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert f"config.checkpoint.local is {value}" in last and message in last
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_another_layout_or_type_takes_the_checkpoint(copies, caplog):
    caplog.set_level("INFO", logger="vit_jax")
    other = wanted()
    other["params"]["p0"] = leaf((8, 6), jnp.float32, "fsdp")
    assert opened(copies).restore(other, newest=None) is None
    assert "the local copies of step 5 are incomplete, or of another layout" in caplog.text
    other["params"]["p0"] = leaf((8, 6), jnp.bfloat16, "fsdp", "tensor")
    assert opened(copies).restore(other, newest=None) is None


def test_a_new_workdir_of_the_same_name_has_no_copies(copies):
    shutil.rmtree(copies / "work")
    (copies / "work").mkdir()
    assert opened(copies).restore(wanted(), newest=None) is None
    # Its own first copy does not bring those of the earlier run back.
    own = opened(copies).started(0)
    own.save(1, state(1), {})
    own.close()
    step, _, _ = opened(copies).restore(wanted(), newest=None)
    assert step == 1


def test_a_full_disk_is_a_warning(copies, monkeypatch, caplog):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(local.np, "savez", full)
    own = opened(copies)
    assert own.restore(wanted(), newest=None)[0] == 5
    own.started(5).save(7, state(7), {})
    own.close()
    assert "the local copy of step 7 was not written: No space left on device" in caplog.text
    assert the_files(copies) == ["3.npz", "5.npz"] and not list(copies.rglob("*.part"))


def test_a_directory_that_cannot_be_is_wrong_input(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        InputError, match=r"^config\.checkpoint\.local: cannot use /.*: Not a directory$"
    ):
        LocalCopies(tmp_path, options(tmp_path / "file/x"), None)


def test_a_run_without_copies_has_none(tmp_path):
    none = LocalCopies(tmp_path, options(""), None).started(0)
    assert not none.due(1) and none.restore(wanted(), None) is None
    none.save(1, {}, {})
    none.delete()
    assert list(tmp_path.iterdir()) == []


CONFIG = """
from vit_jax.config import default


def get_config(engine):
    config = default()
    config.model.update(name="ViT-Ti/4", width=128, depth=2, mlp_dim=256, num_heads=2)
    config.total.steps = 14
    config.batch_size = 8
    config.data.update(source="digits", pp="decode|resize(8)|sleepy|value_range(-1, 1)")
    config.data.update(threads=1, prefetch=1)
    config.log.update(every=1, tensorboard=False)
    config.checkpoint.minutes = 0.0
    config.checkpoint.local_every.steps = 4
    config.parallel.engine = engine
    if engine == "pjit":
        config.parallel.update(replica=2, data=1, fsdp=2)
    return config
"""


def start(folder, engine, work, sleepy=0.0):
    """Two processes with two devices each, as two slices."""
    words = [f"--config={folder / 'slow.py'}:{engine}", f"--workdir={folder / work}"]
    kept = f"--config.checkpoint.local={folder / 'memory'}"
    return start_two("train", *words, kept, sleepy=(sleepy, sleepy))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["pjit", "pmap"])
def test_a_slice_that_lost_everything_is_brought_back_by_the_other(engine, tmp_path):
    """Two processes are killed; one of them comes back on a new host, without its copies."""
    (tmp_path / "slow.py").write_text(SLEEPY_OPERATION + CONFIG)
    outputs_of(start(tmp_path, engine, "whole"))
    assert not list((tmp_path / "memory").rglob("*.npz"))  # the run is done
    processes = start(tmp_path, engine, "work", sleepy=0.05)
    lines = tmp_path / "work/metrics.jsonl"
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and (
        not lines.exists() or len(lines.read_text().splitlines()) < 9
    ):
        time.sleep(0.05)
    for process in processes:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not any(path.name.isdecimal() for path in (tmp_path / "work/checkpoints").iterdir())
    (lost,) = (tmp_path / "memory").rglob("process1")
    kept = max(int(path.stem) for path in lost.parent.rglob("process0/*.npz"))
    assert kept >= 8
    shutil.rmtree(lost)
    outputs = outputs_of(start(tmp_path, engine, "work"))
    told = f"step {kept} is restored from the local copies of 1 of 2 processes"
    assert told in outputs[0], outputs[0]
    assert [json.loads(line)["step"] for line in lines.open()] == list(range(1, 15))
    found = [read_meta(tmp_path / work / "checkpoints/14") for work in ("whole", "work")]
    assert found[0]["fingerprints"] == found[1]["fingerprints"]


def test_a_killed_process_goes_on_from_its_copy(tmp_path, monkeypatch, caplog):
    """One process, in place: its checkpoint is of the end alone."""

    class Killed(Exception):
        pass

    caplog.set_level("INFO", logger="vit_jax")
    config = configs.default()
    config.model.update(name="ViT-Ti/4", width=32, depth=1, mlp_dim=64, num_heads=2)
    config.data.pp = "resize(8)|value_range(-1, 1)"
    config.batch_size = 16
    config.total.steps = 6
    config.checkpoint.update(minutes=0, local=str(tmp_path / "memory"))
    config.checkpoint.local_every.steps = 2
    config.log.update(every=1, tensorboard=False)
    loop.train(config, str(tmp_path / "whole"))
    advance = loop.Loop.advance

    def killed(self):
        if self.step == 5:
            raise Killed
        advance(self)

    monkeypatch.setattr(loop.Loop, "advance", killed)
    with pytest.raises(Killed):
        loop.train(config, str(tmp_path / "work"))
    monkeypatch.undo()
    loop.train(config, str(tmp_path / "work"))
    assert "step 4 is restored from the local copies of 1 of 1 processes" in caplog.text
    found = [read_meta(tmp_path / work / "checkpoints/6") for work in ("whole", "work")]
    assert found[0]["fingerprints"] == found[1]["fingerprints"]
    assert list((tmp_path / "memory").iterdir()) == []
