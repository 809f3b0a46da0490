"""A step that `vit_jax plan --save` compiled, in `vit_jax train --compiled`."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.plan.planning import plan
from vit_jax.cli.main import main
from vit_jax.config_files import load_config
from vit_jax.errors import InputError
from vit_jax.plan.dataset import dataset_of
from vit_jax.train.compiled import file, step
from vit_jax.train.loop import train
from vit_jax.train.run import prepare

CONFIG = """
from vit_jax.config import default

def get_config():
    config = default()
    config.model.update(name="ViT-Ti/4", width=128, depth=1, mlp_dim=128, num_heads=2)
    config.parallel.replicated_tolerance = 0.2
    config.total.steps = 3
    config.batch_size = 16
    config.mixup.alpha = 0.2
    config.data.update(source="digits", pp="decode|resize(16)|value_range(-1, 1)")
    config.log.update(every=1, tensorboard=False)
    return config
"""
ENGINES = {
    "pjit": ["--config.parallel.data=4", "--config.parallel.fsdp=2"],
    "pmap": ["--config.parallel.engine=pmap"],
}


PROGRAMS = {"pjit": "jit(step)", "pmap": "jit(_fun)"}  # as XLA's log names them


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    path.write_text(CONFIG)
    return path


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def compiled_names():
    """The names of the functions that XLA has compiled since the last `clear`."""
    names = []

    def listen(event, duration, **about):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(about.get("fun_name", ""))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


def trained(config_file, workdir, overrides, compiled=None):
    """The losses of a run."""
    jax.clear_caches()
    train(load_config(str(config_file), overrides), str(workdir), compiled=compiled)
    return [line["train/loss"] for line in lines(workdir)]


@pytest.fixture(scope="module")
def saved(config_file, tmp_path_factory):
    """Engine -> file of its compiled step."""
    files = {}
    for engine, options in ENGINES.items():
        files[engine] = str(tmp_path_factory.mktemp("saved") / engine)
        args = [f"--config={config_file}", f"--save={files[engine]}", *options, "--json"]
        status, out = plan(*args)
        assert (status, json.loads(out)["saved"]) == (0, files[engine])
    return files


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_with_a_compiled_step_is_the_same_and_compiles_none(
    engine, config_file, saved, tmp_path, compiled_names
):
    compiled_names.clear()
    expected = trained(config_file, tmp_path / "a", ENGINES[engine])
    assert PROGRAMS[engine] in compiled_names
    compiled_names.clear()
    found = trained(config_file, tmp_path / "b", ENGINES[engine], saved[engine])
    assert PROGRAMS[engine] not in compiled_names
    assert len(found) == 3
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["optimizer.learning_rate=0.5"], "holds another step: config.optimizer.learning_rate "),
        (["mixup.alpha=0.3"], "config.mixup.alpha 0.2 there, 0.3 here"),
        (["total.steps=4"], "was compiled for steps 3, and this run has 4"),
        (["parallel.data=2", "parallel.fsdp=4"], "was compiled for mesh 'replica=1 data=4 fsdp=2"),
        (["progressive.sizes=8@0.5, 16"], "config.progressive.sizes needs 2"),
    ],
)
def test_another_step_is_refused_before_the_workdir_is_made(
    overrides, message, config_file, saved, tmp_path, capsys
):
    words = ["train", f"--config={config_file}", f"--workdir={tmp_path / 'run'}", *ENGINES["pjit"]]
    words += [f"--compiled={saved['pjit']}", *(f"--config.{one}" for one in overrides)]
    assert main(words) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "run" / "config.json").exists()


def test_what_no_step_depends_on_may_differ(config_file, saved):
    options = [*ENGINES["pjit"], "--config.log.every=7", "--config.checkpoint.keep=5"]
    config = load_config(str(config_file), options)
    run = step.load_step(saved["pjit"], prepare(config, dataset_of(config)))
    assert step.is_loaded(run) and isinstance(run.stages[-1].train_step, step.LoadedStep)
    assert step.load_step(None, run) is run


def test_other_files_and_damaged_ones_are_refused(saved, tmp_path):
    content = Path(saved["pjit"]).read_bytes()
    for name, data, message in [
        ("other", b"hello\n" + content, "is no file of `vit_jax plan --save`"),
        ("cut", content[:-1], "is damaged"),
        ("flipped", content[:-9] + bytes([content[-9] ^ 1]) + content[-8:], "is damaged"),
        ("header", file.MAGIC + b"[]\n", "is damaged"),
    ]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=message):
            file.read(str(tmp_path / name))
    with pytest.raises(InputError, match="cannot be read: No such file"):
        file.read(str(tmp_path / "missing"))
    facts, _ = file.read(saved["pjit"])
    assert facts["jax"] == jax.__version__ and facts["devices"] == "8 cpu"


def test_versions_are_compared(config_file, saved, monkeypatch):
    config = load_config(str(config_file), ENGINES["pjit"])
    run = prepare(config, dataset_of(config))
    monkeypatch.setattr(step.jax, "__version__", "9.9.9")
    with pytest.raises(InputError, match=f"for jax '{jax.version.__version__}', and this run has"):
        step.load_step(saved["pjit"], run)


@pytest.mark.parametrize("flag", ["--compiled=x", "--check-network"])
def test_a_dry_run_reads_none(flag, config_file, capsys):
    assert main(["train", f"--config={config_file}", "--dry-run", flag]) == 2
    assert "has no effect with --dry-run" in capsys.readouterr().err.splitlines()[-1]
