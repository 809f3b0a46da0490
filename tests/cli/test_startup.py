"""Compiled programs on disk: found again by another process, kept as long as they are used."""

import json
import os
import subprocess
import sys
import time

CODE = """
import sys, time, json
from vit_jax.cli.startup import keep_compilations
keep_compilations()
import jax, jax.numpy as jnp
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
y = jax.jit(lambda x: (x @ x).sum())(jnp.ones((3, 3)))
hits = events.count("/jax/compilation_cache/cache_hits")
print(json.dumps(dict(directory=jax.config.jax_compilation_cache_dir, hits=hits, y=float(y))))
"""


def user(**variables):
    """The environment of a user who has not said where compiled programs are kept."""
    told = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("JAX_COMPILATION_CACHE", "JAX_PERSISTENT"))
    }
    return {**told, "JAX_ENABLE_COMPILATION_CACHE": "true", **variables}


def start(**variables):
    environment = user(**variables)
    result = subprocess.run(
        [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_a_second_start_finds_what_the_first_compiled_and_old_entries_go(tmp_path):
    first = start(HOME=str(tmp_path))
    assert first["directory"].startswith(str(tmp_path / ".cache" / "vit_jax"))
    assert first["hits"] == 0 and first["y"] == 27
    old = os.path.join(first["directory"], "jit_old-1-cache")
    with open(old, "w"):
        os.utime(old, times=(time.time() - 40 * 24 * 3600,) * 2)
    second = start(HOME=str(tmp_path))
    assert second["hits"] > 0 and second["y"] == 27
    assert not os.path.exists(old)


def test_a_file_in_the_way_is_done_without(tmp_path):
    (tmp_path / ".cache").write_text("")
    assert start(HOME=str(tmp_path))["directory"] is None


def test_nothing_is_kept_where_the_user_wants_nothing_kept(tmp_path):
    told = start(HOME=str(tmp_path), JAX_ENABLE_COMPILATION_CACHE="false")
    assert told["directory"] is None and told["hits"] == 0
    assert not (tmp_path / ".cache").exists()


def test_the_user_chooses_another_directory(tmp_path):
    chosen = str(tmp_path / "chosen")
    assert start(HOME=str(tmp_path), JAX_COMPILATION_CACHE_DIR=chosen)["directory"] == chosen
    assert not (tmp_path / ".cache").exists()


def test_train_keeps_what_it_compiles(tmp_path):
    """The command's own imports bring JAX before it asks for the cache."""
    config = tmp_path / "config.py"
    config.write_text(
        "from vit_jax.config import default\n"
        "def get_config():\n"
        "    c = default()\n"
        "    c.model.update(name='ViT-Ti/8', width=16, depth=1, mlp_dim=32, num_heads=2)\n"
        "    c.data.pp = 'resize(8)|value_range(-1, 1)'\n"
        "    c.batch_size, c.total.steps, c.log.tensorboard = 8, 1, False\n"
        "    return c\n"
    )
    words = ["train", f"--config={config}", f"--workdir={tmp_path / 'run'}"]
    done = subprocess.run(
        [sys.executable, "-m", "vit_jax", *words],
        env=user(HOME=str(tmp_path)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    kept = list((tmp_path / ".cache" / "vit_jax" / "compilations").glob("*/*-cache"))
    assert any("step" in path.name for path in kept), kept
