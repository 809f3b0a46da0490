"""A run that hangs says where, and ends if asked."""

import subprocess
import sys
import time

from vit_jax import config as configs
from vit_jax.train.health import watchdog
from vit_jax.train.health.watchdog import Watchdog
from vit_jax.train.log.clock import Clock


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def options(seconds, exit=False):
    config = configs.default().watchdog
    config.update(seconds=seconds, exit=exit)
    return config


def test_it_tells_once_a_hang_and_sleeps_before_the_first_step(monkeypatch):
    told = []
    monkeypatch.setattr(Watchdog, "_tell", lambda self: told.append(self._step))
    dog = Watchdog(options(0.05), Clock())
    time.sleep(0.3)  # compiling
    assert told == []
    dog.beat(1)
    assert wait_for(lambda: told == [1])
    time.sleep(0.3)
    assert told == [1]
    dog.beat(2)
    dog.pause()
    time.sleep(0.3)
    assert 2 not in told
    dog.beat()
    assert wait_for(lambda: told == [1, 2])
    dog.close()


def test_it_prints_all_stacks_and_ends_the_process():
    program = """
import threading, time
from vit_jax import config as configs
from vit_jax.train.log.clock import Clock
from vit_jax.train.health.watchdog import Watchdog

def hangs_in_another_thread():
    time.sleep(60)

def hangs():
    time.sleep(60)

clock = Clock()
threading.Thread(target=hangs_in_another_thread, daemon=True).start()
config = configs.default().watchdog
config.update(seconds=0.2, exit=True)
Watchdog(config, clock).beat(7)
with clock.phase("data"):
    hangs()
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == watchdog.HUNG == 70
    assert "after step 7, in phase 'data'" in ended.stderr
    assert "in hangs\n" in ended.stderr and "in hangs_in_another_thread\n" in ended.stderr
