"""Features on two processes of two devices each: those of one process, complete on both."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vit_jax.data import open_source
from vit_jax.evaluate.features import load_features

SCRIPT = """
import sys
import numpy as np
from vit_jax.parallel.distributed import initialize

workdir, pp, output, address, process = sys.argv[1:]
initialize(address, 2, int(process), 60)

from vit_jax.data import open_source
from vit_jax.evaluate.features import load_features

model = load_features(workdir, pp=pp, batch_size=100)
features, labels = model(open_source("digits", "train[70%:]"))
np.savez(output, features=features, labels=labels)
"""


PP = "resize(16, method='nearest')|value_range(-1, 1)"  # pixels that nothing rounds


@pytest.mark.slow
def test_every_process_gets_all_features(workdir, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    flags = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, workdir, PP, tmp_path / f"{i}.npz", address, str(i)],
            cwd=Path(__file__).parents[2],
            env=dict(os.environ, XLA_FLAGS=flags, JAX_PLATFORMS="cpu"),
        )
        for i in (0, 1)
    ]
    try:
        assert [process.wait(timeout=300) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    features, labels = load_features(str(workdir), pp=PP)(open_source("digits", "train[70%:]"))
    for i in (0, 1):
        found = np.load(tmp_path / f"{i}.npz")
        np.testing.assert_allclose(found["features"], features, atol=2e-5)
        np.testing.assert_array_equal(found["labels"], labels)
