"""Two processes come to one conclusion, whatever each of them found."""

import json
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from vit_jax.parallel import agree


def scenes():
    """What each process asks and hears; runs in both."""
    me = jax.process_index()

    def fail_on(*processes, error=OSError):
        def act():
            if me in processes:
                raise error(f"disk {me} is full\nand more")

        return act

    asked = []
    heard = {
        "from_first": agree.from_first(lambda: asked.append(me) or {"folder": f"run{me}"}),
        "long": len(agree.from_first(lambda: "é" * 100_000)),
        "all_well": agree.anywhere(None),
        "second": agree.anywhere("no such file" if me == 1 else None),
        "both": agree.anywhere(f"problem of {me}"),
        "succeeded": agree.attempt(fail_on()),
        "failed_on_second": agree.attempt(fail_on(1)),
        "failed_on_both": agree.attempt(fail_on(0, 1)),
        "total": int(agree.total(10 + me)),
        "gathered": np.asarray(agree.gathered(np.array([me, 0.5]))).tolist(),
    }
    try:
        agree.attempt(fail_on(0, 1, error=KeyError), passing=(KeyError,))
    except KeyError:
        heard["passing"] = True
    return heard | {"asked": asked}


WANTED = {
    "from_first": {"folder": "run0"},
    "long": 100_000,
    "all_well": None,
    "second": "process 1: no such file",
    "both": "process 0: problem of 0",
    "succeeded": None,
    "failed_on_second": "process 1: OSError: disk 1 is full",
    "failed_on_both": "process 0: OSError: disk 0 is full",
    "total": 21,
    "gathered": [[0.0, 0.5], [1.0, 0.5]],
    "passing": True,
}


def test_two_processes_hear_the_same():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(port), str(me)],
            env=dict(os.environ, JAX_PLATFORMS="cpu"),
            stdout=subprocess.PIPE,
            text=True,
        )
        for me in (0, 1)
    ]
    heard = [
        json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in processes
    ]
    assert [process.returncode for process in processes] == [0, 0]
    assert heard == [WANTED | {"asked": [0]}, WANTED | {"asked": []}]


@pytest.mark.parametrize("name", sorted(WANTED))
def test_one_process_hears_itself(name):
    alone = {
        "second": None,
        "both": "problem of 0",
        "failed_on_second": None,
        "failed_on_both": "OSError: disk 0 is full",
        "total": 10,
        "gathered": [[0.0, 0.5]],
    }
    assert scenes()[name] == (WANTED | alone)[name]


if __name__ == "__main__":
    jax.distributed.initialize(f"127.0.0.1:{sys.argv[1]}", 2, int(sys.argv[2]))
    print(json.dumps(scenes()))
