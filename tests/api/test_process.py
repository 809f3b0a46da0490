"""Several runs in one process: nothing global stays behind; Ctrl-C and errors are exceptions."""

import faulthandler
import gc
import importlib
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest

import vit_jax
from tests.api.conftest import small_config
from tests.finetune.conftest import photos  # noqa: F401
from vit_jax.errors import InputError, Preempted
from vit_jax.finetune import sweep as sweep_module
from vit_jax.finetune.run import as_overrides

# TensorFlow reads them when it is imported, and when it first computes.
OF_TENSORFLOW = {"TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS", "KERAS_HOME"}
IMAGE = np.zeros((8, 8), np.uint8)


def global_state():
    """What a run could leave behind."""
    loggers = [logging.getLogger(), *(logging.getLogger(name) for name in ("vit_jax", "absl"))]
    return dict(
        signals={n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)},
        wakeup=_wakeup_fd(),
        handlers=[list(logger.handlers) for logger in loggers],
        filters=[list(logger.filters) for logger in loggers],
        levels=[logger.level for logger in loggers],
        environment={k: v for k, v in os.environ.items() if k not in OF_TENSORFLOW},
        jax=dict(jax.config.values),
        mesh=jax.sharding.get_abstract_mesh(),
        folder=os.getcwd(),
        path=list(sys.path),
        streams=(sys.stdout, sys.stderr, sys.excepthook, threading.excepthook),
        collector=(gc.isenabled(), gc.get_threshold()),
        faults=faulthandler.is_enabled(),
        random=np.random.get_state()[1].tolist(),  # noqa: NPY002
    )


def _wakeup_fd():
    if threading.current_thread() is not threading.main_thread():
        return None
    number = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(number)
    return number


def own_threads():
    names = ("signals", "progress", "watchdog")
    return [thread for thread in threading.enumerate() if thread.name in names]


def do_all(run, folder, images):
    """Each public function once."""
    vit_jax.train(small_config(), str(folder / "train"))
    options = {"batch_size": 8, "log.tensorboard": False}
    summary = vit_jax.finetune(
        run, images, workdir=folder / "tuned", epochs=1, method="head", overrides=options
    )
    assert summary["outcome"]["examples"] > 0
    vit_jax.evaluate(run, source="digits", split="train[80%:]")
    model, info = vit_jax.load(run)
    vit_jax.predict((model, info), IMAGE)
    info.features(IMAGE, layers="all", pool="mean")
    info.attention(IMAGE)


@pytest.fixture(scope="module", autouse=True)
def libraries():
    """Imports of other libraries set variables of their own, once in a process."""
    importlib.import_module("vit_jax.data._tf")
    importlib.import_module("sklearn")


def test_nothing_stays_behind(run, photos, tmp_path):  # noqa: F811
    before = global_state()
    do_all(run, tmp_path / "first", photos)
    after = global_state()
    for name, value in before.items():
        assert after[name] == value, name
    deadline = time.monotonic() + 30
    while own_threads() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not own_threads()
    with pytest.raises(InputError):
        vit_jax.train(small_config(), "/proc/nowhere/run")
    config = small_config()
    config.optimizer.learning_rate = float("nan")
    with pytest.raises((InputError, RuntimeError)):
        vit_jax.train(config, str(tmp_path / "nan"))
    assert {k: v for k, v in global_state().items() if k != "random"} == {
        k: v for k, v in before.items() if k != "random"
    }


def test_in_another_thread(run, photos, tmp_path):  # noqa: F811
    """As in the executors of notebooks, where no signal can be handled."""
    before = global_state()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(do_all, run, tmp_path, photos).result()
        with pytest.raises(InputError):
            pool.submit(vit_jax.load, tmp_path / "none").result()
        with (
            pytest.raises(ValueError, match="^an error of the work$"),
        ):  # and not that signals belong to the main thread
            pool.submit(_fail_in_sweep).result()
    assert global_state() == before


def _fail_in_sweep():
    with sweep_module._stopping():
        raise ValueError("an error of the work")


def test_ctrl_c_during_a_sweep_is_a_keyboard_interrupt():
    before = global_state()["signals"]
    with pytest.raises(KeyboardInterrupt), sweep_module._stopping():
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(Preempted), sweep_module._stopping():
        signal.raise_signal(signal.SIGTERM)
    assert global_state()["signals"] == before


PROGRAM = """
import os, signal, sys, threading, time
sys.path.insert(0, {root!r})
import vit_jax
from tests.api.conftest import small_config
config = small_config(100_000)
config.log.every = 1
before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]

def interrupt():
    file = {workdir!r} + "/metrics.jsonl"
    while not os.path.exists(file) or "train/loss" not in open(file).read():
        time.sleep(0.05)
    os.kill(os.getpid(), signal.{signal})

threading.Thread(target=interrupt, daemon=True).start()
try:
    vit_jax.train(config, {workdir!r})
except BaseException as error:
    print(type(error).__name__, error)
assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before
print("goes on")
"""


@pytest.mark.parametrize("name, kind", [("SIGINT", "KeyboardInterrupt"), ("SIGTERM", "Preempted")])
def test_a_signal_saves_the_state_and_raises(name, kind, tmp_path):
    root = str(vit_jax.__path__[0]).removesuffix("/vit_jax")
    program = PROGRAM.format(root=root, workdir=str(tmp_path / "run"), signal=name)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = re.search(rf"{kind} preempted after step (\d+) of 100000, state saved", done.stdout)
    assert said and "goes on" in done.stdout
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == [said[1]]


TWICE = """
import os, signal, time
from vit_jax.train.health.preemption import PreemptionWatch
watch = PreemptionWatch()
try:
    signal.raise_signal(signal.SIGINT)
    time.sleep(5)
except KeyboardInterrupt as error:
    print("at once before the first step:", error)
watch.close()
watch = PreemptionWatch()
watch.lost = lambda: "12 steps are lost"
watch.reached(0), watch.reached(1)
signal.raise_signal(signal.SIGINT)
time.sleep(0.5)
print("once:", watch.reached(2), watch.reason)
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt as error:
    print("twice:", error)
watch.close()
time.sleep(0.2)
print("goes on")
"""


def test_ctrl_c_never_ends_the_process_of_a_notebook():
    done = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "at once before the first step: stopped at once: nothing is lost",
        "once: True Ctrl-C",
        "twice: stopped at once: 12 steps are lost",
        "goes on",
    ]


def test_overrides_are_a_dict_or_texts():
    expected = ["--config.batch_size=16", "--config.log.tensorboard=False"]
    assert as_overrides({"batch_size": 16, "log.tensorboard": False}) == expected
    assert as_overrides(["batch_size=16", "--config.log.tensorboard=False"]) == expected


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(epochs=0), "epochs=0"),
        (dict(method="fully"), "did you mean 'full'"),
        (dict(image_size=-4), "image_size=-4"),
        (dict(overrides={"lr": 1}), "did you mean '--config.optimizer.learning_rate'"),
    ],
)
def test_wrong_values_of_finetune_raise(options, message, run, photos, tmp_path):  # noqa: F811
    with pytest.raises(InputError, match=message):
        vit_jax.finetune(run, photos, workdir=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_each_line_is_logged_once_in_every_run(tmp_path):
    """Orbax has absl log when it is first imported, and absl gives the root logger a handler."""
    code = (
        "import logging, sys, vit_jax\n"
        "from tests.api.conftest import small_config\n"
        "for name in ('one', 'two'):\n"
        f"    vit_jax.train(small_config(), {str(tmp_path)!r} + '/' + name)\n"
        f"vit_jax.load({str(tmp_path)!r} + '/one')\n"
        "print(logging.getLogger().handlers, logging.getLogger('vit_jax').handlers)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert sum("2 steps done" in line for line in lines) == 2
    assert sum("1,797 images of digits" in line for line in lines) == 2
    assert done.stdout.strip() == "[] []"
