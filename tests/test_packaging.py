"""Wheel and sdist, installed in an environment of their own and used away from the checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = (
    "vit_jax",
    "configs",
    "setup.py",
    "pyproject.toml",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
)
TINY = [
    "--config.model.depth=1",
    "--config.model.width=16",
    "--config.model.mlp_dim=32",
    "--config.total.epochs=None",
    "--config.total.steps=3",
    "--config.optimizer.warmup.epochs=None",
    "--config.log.tensorboard=False",
]

pytestmark = pytest.mark.slow


def run(*words, cwd):
    """Standard output of a command that does not see the checkout."""
    hidden = ("PYTHONPATH", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of the checkout's sources, in a folder with the package's name."""
    folder = tmp_path_factory.mktemp("home") / "vit_jax"
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            folder.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(clone, tmp_path_factory):
    """A wheel made from the sdist, as package indexes do."""
    out = tmp_path_factory.mktemp("built")
    build = "import setuptools.build_meta as b, sys; print(b.build_sdist(sys.argv[1]))"
    name = run(sys.executable, "-c", build, out, cwd=clone).split()[-1]
    shutil.unpack_archive(out / name, out)
    build = "import setuptools.build_meta as b, sys; print(b.build_wheel(sys.argv[1]))"
    unpacked = out / name.removesuffix(".tar.gz")
    return out / run(sys.executable, "-c", build, out, cwd=unpacked).split()[-1]


def environment(folder, *install):
    """The bin of an empty environment that has this one's libraries and one thing installed."""
    venv.create(folder)
    paths = sysconfig.get_paths(vars=dict(base=str(folder), platbase=str(folder)))
    libraries = sorted({sysconfig.get_path(kind) for kind in ("purelib", "platlib")})
    # Listed in a .pth, a folder's own .pth files are not read: an editable install stays out.
    Path(paths["purelib"], "libraries.pth").write_text("\n".join(libraries))
    bin_folder = Path(paths["scripts"])
    pip = [sys.executable, "-m", "pip", "--python", bin_folder / "python"]
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--quiet", "--ignore-installed")
    run(*pip, "install", *options, *install, cwd=folder)
    return bin_folder


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    return environment(tmp_path_factory.mktemp("environment"), wheel)


def test_the_wheel_holds_every_module_and_config(wheel):
    expected = {str(path.relative_to(ROOT)) for path in (ROOT / "vit_jax").rglob("*.py")}
    expected |= {f"vit_jax/configs/{path.name}" for path in (ROOT / "configs").glob("*.py")}
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tables = ("models/sizes.tsv", "weights/published.tsv")
    for pattern in (*tables, "weights/shipped/*", "report/page.*", "py.typed"):
        expected |= {str(path.relative_to(ROOT)) for path in (ROOT / "vit_jax").glob(pattern)}
    assert held == expected


def test_from_the_wheel_everything_runs_in_another_folder(installed, tmp_path):
    where = "import vit_jax; print(vit_jax.__file__)"
    assert Path(run(installed / "python", "-c", where, cwd=tmp_path).strip()).is_relative_to(
        installed.parent
    )
    program = installed / "vit_jax"
    loads = "import vit_jax; print(vit_jax.load('vit_jax/fashion-mnist')[1].name)"
    assert "ViT" in run(installed / "python", "-c", loads, cwd=tmp_path)
    version = run(program, "--version", cwd=tmp_path)
    assert version.startswith("vit_jax ") and "(Python 3." in version and ", jax " in version
    assert "86,567,656" in run(program, "models", "ViT-B/16", cwd=tmp_path)
    cells = json.loads(run(program, "tables", "3", "--json", cwd=tmp_path))["cells"]
    assert cells and all(cell["ours"] is not None for cell in cells)

    assert run(program, "tables", "3", cwd=tmp_path).count("|") > 20
    doctor = json.loads(run(program, "doctor", "--json", cwd=tmp_path))
    assert doctor["ok"] and doctor["versions"]["vit_jax"] in version
    seed = run(program, "config", "configs/quickstart.py:finetune", "init_from", cwd=tmp_path)
    assert seed.startswith('init_from = "workdirs/quickstart/pretrain"  [argument configs/quick')
    assert "configs/quickstart.py" in run(program, "completion", "bash", cwd=tmp_path)

    quickstart = "--config=configs/quickstart.py:pretrain"
    plan = json.loads(run(program, "plan", quickstart, *TINY, "--json", cwd=tmp_path))
    assert plan["fits"] and plan["params"] > 0
    rehearsed = run(program, "train", quickstart, *TINY, "--dry-run", "--json", cwd=tmp_path)
    assert json.loads(rehearsed)["steps"] == 3 and not (tmp_path / "run").exists()
    summary = run(program, "train", quickstart, *TINY, "--workdir=run", "--json", cwd=tmp_path)
    assert json.loads(summary)["steps"] == 3

    from PIL import Image

    Image.new("L", (8, 8), 128).save(tmp_path / "grey.png")
    shown = run(program, "predict", "--checkpoint=run", "grey.png", "--json", cwd=tmp_path)
    assert len(json.loads(shown)[0]["top"]) == 5
    assert not (tmp_path / "configs").exists()


def test_an_editable_install_is_found_beside_the_clone(clone, tmp_path):
    """The clone's folder, without __init__.py, could pass for a namespace package vit_jax."""
    bin_folder = environment(tmp_path, "--editable", clone)
    beside = clone.parent
    where = "import vit_jax; print(vit_jax.create_model.__module__)"
    assert run(bin_folder / "python", "-c", where, cwd=beside) == "vit_jax.models.variants\n"
    assert "vit_jax " in run(bin_folder / "python", "-m", "vit_jax", "--version", cwd=beside)
    config = "from vit_jax import load_config; print(load_config('configs/small.py').seed)"
    assert run(bin_folder / "python", "-c", config, cwd=beside) == "0\n"
