"""Two processes of two devices each find what one process does."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vit_jax.data import open_source
from vit_jax.evaluate.stored import evaluate_checkpoint

SCRIPT = """
import sys
import numpy as np
from vit_jax.parallel.distributed import initialize

workdir, pp, output, address, process = sys.argv[1:]
initialize(address, 2, int(process), 60)

from vit_jax.data import open_source
from vit_jax.evaluate.frozen.probe import NearestNeighbours
from vit_jax.evaluate.stored import open_stored

stored = open_stored(workdir, pp=pp, batch_size=100)
model = NearestNeighbours(pp=pp).compile(stored.context)(stored.params)
features, labels = model(open_source("digits", "train[70%:]"))
np.savez(output, features=features, labels=labels)
"""


PP = "resize(16, method='nearest')|value_range(-1, 1)"  # pixels that nothing rounds


def two_processes(*words, numbered=()):
    """Runs Python twice with the address of the first; `numbered` differs between them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    flags = "--xla_force_host_platform_device_count=2 " + os.environ["QUICK_XLA_FLAGS"]
    processes = [
        subprocess.Popen(
            [sys.executable, *map(str, words), *(text.format(address, i) for text in numbered)],
            cwd=Path(__file__).parents[2],
            env=dict(os.environ, XLA_FLAGS=flags, JAX_PLATFORMS="cpu"),
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in (0, 1)
    ]
    try:
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0]
    return outputs


@pytest.mark.slow
def test_every_process_gets_all_features(workdir, tmp_path, features_of):
    where = f"{tmp_path}/{{1}}.npz"
    two_processes("-c", SCRIPT, workdir, PP, numbered=(where, "{0}", "{1}"))
    features, labels = features_of(workdir, PP)(open_source("digits", "train[70%:]"))
    for i in (0, 1):
        found = np.load(tmp_path / f"{i}.npz")
        np.testing.assert_allclose(found["features"], features, atol=2e-5)
        np.testing.assert_array_equal(found["labels"], labels)


@pytest.mark.slow
def test_two_processes_evaluate_every_example_once_and_one_says_so(workdir, tmp_path):
    common = ("-m", "vit_jax", "evaluate", f"--checkpoint={workdir}", "--json", "--num-processes=2")
    files = (f"--worst={tmp_path}/worst", "--worst-count=3", f"--confusion={tmp_path}/c.json")
    first, second = two_processes(
        *common, *files, "--batch-size=100", numbered=("--coordinator={0}", "--process-id={1}")
    )
    assert second == ""
    alone, found = evaluate_checkpoint(str(workdir)), json.loads(first)
    assert found["examples"] == alone["examples"] == open_source("digits", "train[70%:]").size
    assert found["top1"] == alone["top1"]
    assert found["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    matrix = np.array(json.loads((tmp_path / "c.json").read_text())["confusion"])
    assert matrix.sum() == alone["examples"]
    assert matrix.trace() == round(alone["top1"] * alone["examples"])
    assert len(list((tmp_path / "worst").iterdir())) == 4  # three pictures and their index
