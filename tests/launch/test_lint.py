"""The linters of what Python's do not read."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SHELL = [*ROOT.glob("launch/**/*.sh"), *ROOT.glob("launch/*.sbatch"), *ROOT.glob("tests/**/*.sh")]
YAML = list(ROOT.glob("launch/*.yaml"))
YAML_RULES = {
    "extends": "default",
    "rules": {
        "line-length": {"max": 100},
        "comments": {"min-spaces-from-content": 2},
    },
}


def lint(tool, *args):
    program = Path(sys.prefix) / "bin" / tool
    if not program.exists():
        pytest.skip(f"{tool} is not installed")
    result = subprocess.run([program, *args], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_shell_scripts():
    assert len(SHELL) > 10
    lint("shellcheck", *SHELL)


def test_yaml_files():
    assert len(YAML) == 4
    lint("yamllint", "--strict", "-d", json.dumps(YAML_RULES), *YAML)


def test_dockerfile():
    lint("hadolint", ROOT / "launch/Dockerfile")


def test_what_skypilot_runs(tmp_path):
    task = yaml.safe_load((ROOT / "launch/skypilot.yaml").read_text())
    script = tmp_path / "task.sh"
    # The environment outside is declared by the file and by SkyPilot.
    script.write_text(f"#!/usr/bin/env bash\n{task['setup']}{task['run']}")
    lint("shellcheck", "--exclude=SC1091,SC2155", script)
