"""`vit_jax config CONFIG`: each option's value, and the line, word or weights that set it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from flax import traverse_util

from tests.api.conftest import small_config
from tests.finetune.conftest import pretrained  # noqa: F401
from vit_jax.cli.main import main
from vit_jax.config import default
from vit_jax.config_files import USUAL_NAMES, load_config, meant_option
from vit_jax.models import identify, model_config
from vit_jax.options import flatten
from vit_jax.train.config import every_option
from vit_jax.train.loop import train
from vit_jax.train.workdir import claim_workdir
from vit_jax.weights import Weights, write
from vit_jax.weights.record import parameter_shapes

CONFIG = """
from vit_jax.config import default, duration, evaluation

def longer(config):
    config.total = duration(epochs=7)

def get_config(arg="small"):
    config = default()
    config.batch_size = 16
    config.optimizer.update(weight_decay=0.05, name="adamw")
    config.seed = 0
    longer(config)
    if arg == "large":
        config.optimizer.learning_rate = 3e-3
    with config.unlocked():
        config.evals.test = evaluation(split="test", batch_size=8)
    return config
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("c.py").write_text(CONFIG)
    return tmp_path


def resolved(capfd, *words):
    assert main(["config", *words, "--json"]) == 0
    return {one["name"]: one for one in json.loads(capfd.readouterr().out)}


def line_of(code):
    return next(n for n, line in enumerate(CONFIG.splitlines(), 1) if code in line)


def test_the_values_are_those_of_the_run(place, capfd):
    words = ["--config.optimizer.b2=0.95", "--config.total.steps=5"]
    found = resolved(capfd, "c.py:large", *words)
    for name, value in flatten(load_config("c.py:large", words)):
        if name.startswith("model.") and value is None:
            continue  # by the model's name or the data
        assert found[name]["value"] == (list(value) if isinstance(value, tuple) else value), name
    expected = model_config("ViT-S/16")
    assert found["model.width"]["value"] == expected.width
    assert found["model.width"]["origin"] == "name"
    assert found["model.num_classes"]["value"] is None  # the data say


@pytest.mark.parametrize(
    "name, origin, where",
    [
        ("batch_size", "file", "config.batch_size"),
        ("seed", "file", "config.seed"),
        ("optimizer.weight_decay", "file", "update("),
        ("evals.test.split", "file", "evaluation(split"),
        ("optimizer.learning_rate", "argument", "learning_rate"),
        ("optimizer.b1", "default", None),
    ],
)
def test_the_line_that_set_an_option_is_named(place, capfd, name, origin, where):
    one = resolved(capfd, "c.py:large")[name]
    assert one["origin"] == origin
    assert one["where"] == (f"c.py:{line_of(where)}" if where else "")


def test_an_override_is_named_and_replaces_a_unit(place, capfd):
    word = "--config.total.steps=5"
    found = resolved(capfd, "c.py", word, "--config.seed=3")
    assert [found["total.steps"][key] for key in ("value", "origin", "where")] == [
        5,
        "override",
        word,
    ]
    assert found["total.epochs"]["value"] is None
    assert found["total.epochs"]["where"] == word
    assert found["seed"]["where"] == "--config.seed=3"
    changed = resolved(capfd, "c.py", word, "--changed")
    assert "total.steps" in changed and "seed" not in changed and "optimizer.b1" not in changed


def test_text_tells_meaning_range_and_default(place, capfd):
    assert main(["config", "c.py", "batch_size"]) == 0
    text = capfd.readouterr().out
    assert text.startswith(f"batch_size = 16  [file c.py:{line_of('config.batch_size')}; default")
    assert "default 128]" in text and "(int; at least 1; computation)" in text


def test_weights_decide_what_the_config_leaves_open(place, capfd, caplog):
    caplog.set_level("INFO", logger="vit_jax")
    config = model_config(
        "ViT-Ti/8", width=32, num_heads=2, depth=1, mlp_dim=32, image_size=16, num_classes=3,
        gelu="erf",
    )  # fmt: skip
    shapes = parameter_shapes(config)
    flat = {path: np.full(shape, 0.1, np.float32) for path, shape in shapes.items()}
    name, options = identify(config)
    params = traverse_util.unflatten_dict(flat, sep="/")
    pp = "resize(16)|value_range(-1, 1)"
    write(Weights(name=name, options=options, params=params, pp=pp), "w.npz")
    Path("data/train/a").mkdir(parents=True)
    words = ["--config.init_from=w.npz", "--config.data.source=folder:data"]
    found = resolved(capfd, "c.py", *words)
    for option, value in dict(gelu="erf", width=32, num_heads=2).items():
        assert found[f"model.{option}"]["value"] == value
        assert found[f"model.{option}"]["origin"] == "weights"
        assert found[f"model.{option}"]["where"] == "w.npz"
    assert found["data.pp"]["origin"] == "weights"
    assert found["evals.test.pp"]["value"].endswith("value_range(-1, 1)")
    main(["config", "c.py", "model.gelu", "--config.init_from=none.npz"])
    assert "init_from none.npz: is not on this machine" in caplog.text
    assert capfd.readouterr().out.startswith("model.gelu = None")


def test_a_workdir_is_shown_and_compared(place, capfd):
    Path("run").mkdir()
    claim_workdir(Path("run"), load_config("c.py:large"))
    found = resolved(capfd, "run")
    assert found["optimizer.learning_rate"]["value"] == 3e-3
    assert found["optimizer.learning_rate"]["origin"] == "file"
    assert found["optimizer.b1"]["origin"] == "default"
    assert main(["config", "--diff", "c.py:large", "run"]) == 0
    assert capfd.readouterr().out == "c.py:large and run say the same\n"
    assert main(["config", "--diff", "c.py", "run", "--json"]) == 0
    usual = default().optimizer.learning_rate
    assert json.loads(capfd.readouterr().out) == [
        dict(name="optimizer.learning_rate", a=usual, b=3e-3)
    ]
    Path("d.py").write_text(CONFIG.replace("evals.test", "evals.other"))
    assert main(["config", "--diff", "c.py", "d.py"]) == 0
    assert 'evals.test.split: "test" -> absent' in capfd.readouterr().out


def test_what_the_name_or_the_weights_decide_is_compared(place, capfd, pretrained):  # noqa: F811
    """The model of a run that began with weights is theirs, which its config.json leaves open."""
    for name in ("ViT-Ti/8", "ViT-S/8"):
        config = load_config("c.py")
        config.model.name = name
        folder = Path(name.replace("/", "_"))
        folder.mkdir()
        claim_workdir(folder, config)
    assert main(["config", "--diff", "ViT-Ti_8", "ViT-S_8", "--json"]) == 0
    found = {
        one["name"]: (one.get("a"), one.get("b")) for one in json.loads(capfd.readouterr().out)
    }
    # Touvron et al. (2012.12877), table 1.
    assert found["model.width"] == (192, 384) and found["model.num_heads"] == (3, 6)
    config = small_config(steps=1)
    config.init_from = str(pretrained)
    config.model.update(name=None, width=None, depth=None, mlp_dim=None, num_heads=None)
    train(config, "tuned")
    assert main(["config", "--diff", "ViT-Ti_8", "tuned", "--json"]) == 0
    found = {
        one["name"]: (one.get("a"), one.get("b")) for one in json.loads(capfd.readouterr().out)
    }
    assert found["model.width"] == (192, 16) and found["model.depth"] == (12, 2)
    # What weights decide that are not here is not compared; those of the package are here.
    Path("e.py").write_text(CONFIG.replace("config.seed = 0", "config.init_from = 'none.npz'"))
    assert main(["config", "--diff", "e.py", "tuned", "--json"]) == 0
    assert "model.width" not in [one["name"] for one in json.loads(capfd.readouterr().out)]
    Path("f.py").write_text(
        CONFIG.replace("config.seed = 0", "config.init_from = 'vit_jax/fashion-mnist'")
    )
    assert resolved(capfd, "f.py")["model.width"]["value"] == 64


@pytest.mark.parametrize(
    "stored, message",
    [
        ({"model": 3}, "model is 3, not a section"),
        ({"optimizer": {"warmup": []}}, "optimizer.warmup is [], not a section"),
        ({"model": {"width": "wide"}}, "model.width is 'wide', not of type int"),
        ({"seed": {"a": 1}}, "seed is {'a': 1}, not of type int"),
    ],
)
def test_a_damaged_config_of_a_run_is_refused_in_a_line(stored, message, place, capfd):
    Path("run").mkdir()
    Path("run/config.json").write_text(json.dumps(stored))
    for words in (["run"], ["--diff", "c.py", "run"]):
        assert main(["config", *words]) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert f"run/config.json is damaged ({message}); restore or delete it" in line


@pytest.mark.parametrize(
    "words, message",
    [
        (["c.py", "--config.lr=3"], "did you mean '--config.optimizer.learning_rate'"),
        (["c.py", "lr"], "did you mean 'optimizer.learning_rate'"),
        (["lr"], "did you mean 'optimizer.learning_rate'"),
        (["--config.seed=3"], "--config.seed=3 needs a config"),
        (["optimizer", "--changed"], "--changed needs a config"),
        (["run"], "run holds no config.json"),
        (["nowhere/run"], "nowhere/run is neither a config file x.py nor a workdir"),
        (["seed", "seed"], "seed is neither a config file x.py nor a workdir"),
        (["run/config.json", "--config.seed=3"], "--config.seed=3: run/config.json holds a run"),
        (["--diff", "c.py", "e.py"], "config file e.py does not exist"),
        (["--diff", "c.py", "run"], "run holds no config.json"),
        (["--diff", "c.py", "c.py", "--changed"], "nothing else, not --changed"),
        (["--diff", "c.py"], "expected 2 arguments"),
    ],
)
def test_wrong_input_is_one_line(place, capfd, words, message):
    Path("run").mkdir()
    assert main(["config", *words]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize(
    "name, meant",
    [
        ("lr", "optimizer.learning_rate"),
        ("wd", "optimizer.weight_decay"),
        ("batch", "batch_size"),
        ("dropout", "model.dropout"),
        ("drop_path_rate", "model.stochastic_depth"),
        ("max_grad_norm", "optimizer.clip_norm"),
        ("num_train_epochs", "total.epochs"),
        ("warmup_epochs", "optimizer.warmup.epochs"),
        ("evals.test.bs", "evals.test.batch_size"),
        # By words of the meaning.
        ("gradient_accumulation", "parallel.accumulate"),
        ("sharpness_aware", "optimizer.sam_rho"),
        ("cross_entropy", "loss.name"),
    ],
)
def test_an_option_is_found_by_the_names_of_others_and_by_its_meaning(place, name, meant):
    assert meant_option(load_config("c.py"), name) == meant


def test_the_usual_names_lead_to_options_and_are_none():
    names = {one.name for one in every_option()}
    assert set(USUAL_NAMES.values()) <= names and not set(USUAL_NAMES) & names


def test_ranges_say_what_the_checks_allow(capfd):
    found = resolved(capfd, "*")
    assert found["optimizer.b2"]["range"] == "at least 0 and below 1"
    assert found["model.gelu"]["range"] == "erf | quick | tanh"
    for name, one in found.items():
        bound = re.fullmatch(r"at least (-?\d+)", one["range"])
        if bound and one["type"] == "int" and "." not in name:
            word = f"--config.{name}={int(bound[1]) - 1}"
            assert main(["config", "configs/quickstart.py", word]) == 2
            assert "it must be at least" in capfd.readouterr().err
