"""The devices of tests: eight CPU devices, or the accelerator of VIT_JAX_TEST_PLATFORM.

A test without a marker is for CPUs. `VIT_JAX_TEST_PLATFORM=gpu pytest` (or `tpu`) runs the tests
marked `gpu` (or `tpu`) on that device, with the CPU beside it, and skips the others. All of this
is set before JAX is imported anywhere.
"""

import atexit
import gc
import os
import platform
import shutil
import tempfile
from importlib.metadata import version

import pytest
from packaging.version import Version

PLATFORMS = {"cpu": "cpu", "gpu": "cuda,cpu", "tpu": "tpu,cpu"}
PLATFORM = os.environ.get("VIT_JAX_TEST_PLATFORM", "cpu")
if PLATFORM not in PLATFORMS:
    raise pytest.UsageError(f"VIT_JAX_TEST_PLATFORM={PLATFORM}: give one of {', '.join(PLATFORMS)}")

os.environ["JAX_PLATFORMS"] = PLATFORMS[PLATFORM]
# Processes of a test run share what they compile, apart from the user's own cache.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    compiled = tempfile.mkdtemp(prefix="vit_jax_tests_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled
    atexit.register(shutil.rmtree, compiled, ignore_errors=True)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
# Programs need not say which lines of Python they come from: that is a tenth of making them.
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"
os.environ["QUICK_XLA_FLAGS"] = ""  # for processes with devices of their own
if PLATFORM == "cpu":
    # Tests compile much and run little: with this, compiling takes a quarter of the time, and
    # without the emitters of fusions, which later versions cannot do without, two thirds of that.
    # Compiled in one part, a program takes no second core: that is another worker's.
    quick = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
    if Version(version("jaxlib")) < Version("0.11"):
        quick += ["--xla_cpu_use_fusion_emitters=false"]
    if platform.machine() == "x86_64":
        quick += ["--xla_cpu_max_isa=SSE4_2"]
    os.environ["QUICK_XLA_FLAGS"] = " ".join(quick)
    os.environ["XLA_FLAGS"] = " ".join(
        [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8", *quick]
    )
else:
    # Float32 products in full precision, as the references have them.
    os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"

# Tracing makes many objects that live shortly: looking through all of them for garbage every few
# hundred, and through what was imported, takes a tenth of the time of the tests.
gc.set_threshold(20_000, 10, 10)


def pytest_collection_modifyitems(items):
    for item in items:
        platforms = [name for name in PLATFORMS if item.get_closest_marker(name)] or ["cpu"]
        for name in platforms:
            item.add_marker(name)
        if PLATFORM not in platforms:
            reason = f"for {' and '.join(platforms)}; set VIT_JAX_TEST_PLATFORM"
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish():
    gc.collect()
    gc.freeze()
