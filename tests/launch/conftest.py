"""Runs the scripts of launch/, with stand-ins for the programs of a cluster."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def launch(tmp_path):
    """launch(*command, **environment) -> the finished process; launch.fake(name, body) first."""
    programs = tmp_path / "programs"
    programs.mkdir()

    def run(*command, seconds=60, **env):
        settings = dict(VENV=sys.prefix, PYTHONPATH=str(ROOT), JAX_PLATFORMS="cpu")
        path = f"{programs}:{os.environ['PATH']}"
        return subprocess.run(
            [str(word) for word in command],
            cwd=ROOT,
            env={**os.environ, **settings, "PATH": path, **env},
            capture_output=True,
            text=True,
            timeout=seconds,
        )

    def fake(name, body):
        """A program that does `body`; returns what gives the arguments of its calls so far."""
        log = tmp_path / f"{name}.log"
        program = programs / name
        program.write_text(
            f"#!/usr/bin/env bash\n{{ printf '%s\\n' \"$@\"; echo; }} >>{log}\n{body}\n"
        )
        program.chmod(0o755)

        def calls():
            text = log.read_text() if log.exists() else ""
            return [call.split("\n") for call in text.split("\n\n") if call]

        return calls

    run.fake, run.programs = fake, programs
    return run
