"""Two processes of one run on this machine, each with two CPU devices."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

# The source of an operation with which each image takes SLEEPY seconds, for config files.
SLEEPY_OPERATION = """
import os
import time

import tensorflow as tf
from vit_jax.data.ops.op import Op, operation


@operation("sleepy")
class Sleepy(Op):
    "Waits SLEEPY seconds."

    def tensorflow(self, image, words):
        def wait():
            time.sleep(float(os.environ.get("SLEEPY", 0)))
            return 0

        done = tf.numpy_function(wait, [], tf.int64)
        with tf.control_dependencies([done]):
            return tf.identity(image)
"""


def start_two(*words, sleepy=(0.0, 0.0)):
    """Starts `vit_jax words...` twice; `sleepy` is the variable SLEEPY of each process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    flags = "--xla_force_host_platform_device_count=2 " + os.environ["QUICK_XLA_FLAGS"]
    common = [*map(str, words), f"--coordinator={address}", "--num-processes=2"]
    return [
        subprocess.Popen(
            [sys.executable, "-m", "vit_jax", *common, f"--process-id={i}"],
            cwd=ROOT,
            env=dict(os.environ, XLA_FLAGS=flags, JAX_PLATFORMS="cpu", SLEEPY=str(seconds)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i, seconds in enumerate(sleepy)
    ]


def outputs_of(processes, seconds=400):
    """What the processes printed, once both have ended well."""
    outputs = [process.communicate(timeout=seconds)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    return outputs
