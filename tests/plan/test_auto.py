"""`config.parallel.layout=auto`: the paper's runs fit their slices, and training resolves it."""

import json

import pytest

from tests.plan.planning import plan
from vit_jax import InputError
from vit_jax import train as train_function
from vit_jax.cli.main import main
from vit_jax.config_files import load_config
from vit_jax.plan.analytic.devices import describe_devices
from vit_jax.plan.analytic.step import Analyst
from vit_jax.plan.dataset import dataset_of
from vit_jax.plan.layouts.auto import arrange

CONFIG = """
from vit_jax.config import default

def get_config():
    config = default()
    config.model.update(name="ViT-Ti/4", width=128, depth=1, mlp_dim=128, num_heads=2)
    config.parallel.update(layout="auto", replicated_tolerance=0.2)
    config.total.steps = 2
    config.batch_size = 16
    config.data.update(source="digits", pp="resize(8)|value_range(-1, 1)")
    config.log.tensorboard = False
    config.checkpoint.every.steps = 1
    return config
"""


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG)
    return path


def arranged(name, topology, *overrides):
    config = load_config(name, overrides)
    dataset, devices = dataset_of(config), describe_devices(topology)
    config = arrange(config, dataset, devices, topology=topology)
    return config, Analyst(config, dataset, devices).step()


@pytest.mark.parametrize(
    "config, topology",
    [
        ("configs/vit_jft.py:ViT-B/16", "v3:8x8"),
        ("configs/vit_jft.py:ViT-L/16", "v5e:16x16"),
        ("configs/vit_jft.py:ViT-H/14", "v5e:16x16"),
        ("configs/vit_i1k.py:vit_s16", "v5e:2x2"),
        ("configs/vit_i21k.py:ViT-L/16", "v5e:8x8"),
        pytest.param("configs/vit_jft.py:R50+ViT-L/16", "v5e:16x16", marks=pytest.mark.slow),
    ],
)
def test_the_papers_runs_fit_their_slices_without_a_flag(config, topology):
    found, step = arranged(config, topology)
    assert found.parallel.layout == "given"
    assert step.fits and step.total_bytes <= 0.9 * step.limit_bytes


def test_given_values_win():
    overrides = ("--config.parallel.fsdp=32", "--config.model.remat=full")
    found, step = arranged("configs/vit_jft.py:ViT-L/16", "v5e:16x16", *overrides)
    assert (found.parallel.fsdp, found.model.remat) == (32, "full")
    assert step.run.engine.mesh.shape["fsdp"] == 32
    config = load_config("configs/vit_jft.py:ViT-L/16", ["--config.parallel.layout=given"])
    assert arrange(config, dataset_of(config), describe_devices("v5e:16x16")) is config
    assert config.parallel.fsdp == 1


def test_a_run_that_fits_nowhere_names_the_smallest_slice():
    overrides = ("--config.batch_size=1048576", "--config.optimizer.warmup.steps=100")
    with pytest.raises(InputError, match="--topology=v5e:[0-9x]+$") as error:
        arranged("configs/vit_jft.py:ViT-H/14", "v5e:2x2", *overrides)
    assert str(error.value).startswith("config.parallel.layout=auto: no layout fits v5e:2x2: ")


def test_training_resolves_the_layout_and_resumes_on_another(config_file, tmp_path, capsys):
    args = ["train", f"--config={config_file}", f"--workdir={tmp_path / 'run'}"]
    assert main([*args, "--config.total.steps=1"]) == 0
    stored = json.loads((tmp_path / "run/config.json").read_text())
    sizes = {axis: stored["parallel"][axis] for axis in ("replica", "data", "fsdp", "tensor")}
    assert stored["parallel"]["layout"] == "given" and stored["model"]["remat"] == "auto"
    assert sizes == dict(replica=1, data=8, fsdp=1, tensor=1)  # the plainest
    assert main([*args, "--config.parallel.fsdp=2"]) == 0
    stored = json.loads((tmp_path / "run/config.json").read_text())
    assert (stored["parallel"]["data"], stored["parallel"]["fsdp"]) == (4, 2)
    assert json.loads((tmp_path / "run/summary.json").read_text())["steps"] == 2
    capsys.readouterr()


def test_a_dry_run_resolves_it(config_file, capsys):
    assert main(["train", f"--config={config_file}", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mesh"]["data"] == 8


def test_a_plan_resolves_it_too(config_file):
    status, out = plan(f"--config={config_file}", "--json")
    assert status == 0 and json.loads(out)["layout"] == {"engine": "pjit", "data": 8}


def test_wrong_input_is_one_line(config_file, tmp_path, capsys):
    args = [f"--config={config_file}", f"--workdir={tmp_path / 'run'}"]
    assert main(["train", *args, "--config.parallel.engine=pmap"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "config.parallel.layout=auto: the engine pmap has one layout" in error
    assert not (tmp_path / "run/config.json").exists()
    assert (
        main(["plan", f"--config={config_file}", "--search", "--config.parallel.engine=pmap"]) == 2
    )
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "--search: the engine pmap has one layout; set config.parallel.engine to pjit" in error
    # What is wrong with the model is not the layout's fault.
    assert main(["train", *args, "--config.model.patch_size=7"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "layout=auto" not in error and "patch" in error
    with pytest.raises(InputError, match="chosen by the command `vit_jax train`"):
        train_function(load_config(str(config_file)), str(tmp_path / "run"))
