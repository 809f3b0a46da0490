"""Memory of this process, beside what it allocates."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PEAK = "from vit_jax.train.log.memory import peak_memory; print(peak_memory())"
GROWS = """
import numpy as np
from vit_jax.train.log.memory import peak_memory
before = peak_memory()
np.ones(2**29, np.uint8)
print(peak_memory() - before)
"""


def printed(program):
    return int(
        subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout
    )


def test_the_peak_grows_by_what_is_allocated():
    assert 2**29 * 0.9 < printed(GROWS) < 2**29 * 1.1


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="read on Linux")
def test_the_peak_is_not_that_of_the_process_that_started_it():
    np.ones(2**31, np.uint8)
    assert 0 < printed(PEAK) < 2**30
