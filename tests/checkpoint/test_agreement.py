"""Two processes of four devices share checkpoints and every conclusion about them."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vit_jax.checkpoint import stored
from vit_jax.checkpoint.manager import Checkpoints
from vit_jax.config import default
from vit_jax.errors import InputError
from vit_jax.parallel.agree import total

ROOT = Path(__file__).parents[2]
SHAPE = (8, 48, 64)


def options():
    config = default().checkpoint
    # A save in which one process fails keeps the other waiting as long.
    config.update(keep=9, timeout=10)
    return config


def abstract_items():
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))

    def leaf(*spec):
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(SHAPE, jnp.float32, sharding=sharding)

    return {"params": {"sharded": leaf("a", None, "b"), "replicated": leaf()}}


def numbers(step):
    sharded, replicated = np.random.default_rng(step).normal(size=(2, *SHAPE)).astype(np.float32)
    return {"params": {"sharded": sharded, "replicated": replicated}}


def items(step):
    def on_devices(leaf, array):
        return jax.make_array_from_callback(SHAPE, leaf.sharding, lambda index: array[index])

    return jax.tree.map(on_devices, abstract_items(), numbers(step))


def scenes(workdir):
    """What each process does and sees; runs in both."""
    import resource

    first = jax.process_index() == 0
    checkpoints = Checkpoints(workdir, options())
    yield "counted", int(total(2 if first else 5))
    for step in (1, 2, 3):
        yield f"save {step}", checkpoints.save(step, items(step), {}, {}, wait=True)
    yield "restore", checkpoints.restore_newest(abstract_items())[0]

    if first:
        path = checkpoints.directory / "3" / "params" / "manifest.ocdbt"
        os.truncate(path, 10)
    yield "truncated", checkpoints.restore_newest(abstract_items())[0]

    # One process cannot read what the other can.
    read_item = stored.read_item

    def unreadable(checkpoint, *args):
        if checkpoint.name == "2" and not first:
            raise OSError("Stale file handle")
        return read_item(checkpoint, *args)

    stored.read_item = unreadable
    yield "unreadable to one", checkpoints.restore_newest(abstract_items())[0]
    stored.read_item = read_item

    # One process cannot write what the other can.
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    if not first:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, unlimited[1]))
    yield "begun", checkpoints.save(4, items(4), {}, {})
    yield "complete", checkpoints.wait()
    yield "failures", checkpoints.failures
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    yield "save again", checkpoints.save(4, items(4), {}, {}, wait=True)
    yield "restore again", checkpoints.restore_newest(abstract_items())[0]

    for step in (1, 4):
        if first:
            (checkpoints.directory / str(step) / "files.json").write_text("{")
    try:
        checkpoints.restore_newest(abstract_items())
    except InputError as error:
        yield "none good", "no other" in str(error)
    checkpoints.close()


SEEN = {
    "counted": 7,
    "save 1": True,
    "save 2": True,
    "save 3": True,
    "restore": 3,
    "truncated": 2,
    "unreadable to one": 1,
    "begun": True,
    "complete": False,
    "failures": 1,
    "save again": True,
    "restore again": 4,
    "none good": True,
}


@pytest.mark.slow
def test_processes_agree(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, address, str(i), str(tmp_path)],
            cwd=ROOT,
            env=dict(
                os.environ,
                XLA_FLAGS="--xla_force_host_platform_device_count=4 "
                + os.environ["QUICK_XLA_FLAGS"],
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in (0, 1)
    ]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    seen = [json.loads(out.splitlines()[-1]) for out, _ in outputs]  # after what Gloo says
    assert seen == [SEEN, SEEN], outputs
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["1", "4", "damaged"]
    assert sorted(os.listdir(tmp_path / "checkpoints" / "damaged")) == ["2", "3"]
    # Written by two processes, verified by one.
    os.remove(tmp_path / "checkpoints" / "4" / "files.json")
    step, found = Checkpoints(tmp_path, options()).restore_newest(abstract_items())
    assert step == 4
    jax.tree.map(np.testing.assert_array_equal, found, numbers(4))


if __name__ == "__main__":
    address, index, workdir = sys.argv[1:]
    jax.distributed.initialize(address, 2, int(index))
    print(json.dumps(dict(scenes(workdir))))
