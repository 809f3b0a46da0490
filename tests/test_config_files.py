"""Overrides on the command line: each kind of value, and what is refused."""

import pytest
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from vit_jax import InputError
from vit_jax.config import default
from vit_jax.config_files import load_config, meant_option, set_option
from vit_jax.durations import in_steps, is_duration


@pytest.fixture
def config():
    return ConfigDict(
        dict(
            rate=0.1,
            steps=3,
            name="adam",
            flag=True,
            skip=("head/*",),
            nested=dict(rate=1.0, depth=dict(size=2)),
            maybe=placeholder(int),
            share=placeholder(float),
            word=placeholder(str),
            anything=placeholder(object),
        )
    )


@pytest.mark.parametrize(
    "name, text, value",
    [
        ("rate", "3e-4", 3e-4),
        ("rate", "2", 2.0),
        ("steps", "-7", -7),
        ("name", "sgd", "sgd"),
        ("name", "3", "3"),
        ("name", "None", None),
        ("name", "a=b", "a=b"),
        ("flag", "False", False),
        ("skip", "('a', 'b')", ("a", "b")),
        ("skip", "['a', 'b']", ("a", "b")),
        ("skip", "a/*", ("a/*",)),
        ("skip", "()", ()),
        ("nested.rate", "0.5", 0.5),
        ("nested.depth.size", "8", 8),
        ("maybe", "5", 5),
        ("maybe", "None", None),
        ("share", "0.25", 0.25),
        ("share", "1", 1.0),
        ("word", "None", None),
        ("anything", "(224, 192)", (224, 192)),
        ("anything", "224", 224),
        ("anything", "gap", "gap"),
    ],
)
def test_a_value_gets_the_type_of_its_option(config, name, text, value):
    set_option(config, name, text)
    found = config
    for part in name.split("."):
        found = found[part]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("steps", "1.5", "--config.steps=1.5: give a value of type int"),
        ("steps", "many", "--config.steps=many: give a value of type int"),
        ("rate", "True", "--config.rate=True: give a value of type float"),
        ("rate", "fast", "--config.rate=fast: give a value of type float"),
        ("flag", "1", "--config.flag=1: give True or False"),
        ("flag", "yes", "--config.flag=yes: give True or False"),
        ("nested", "3", "--config.nested is a section; set an option, as nested.depth.size"),
        ("nested.rat", "3", r"option --config.nested.rat \(did you mean '--config.nested.rate'"),
        ("size", "3", r"option --config.size \(did you mean '--config.nested.depth.size'\?\)"),
        ("rate.size", "3", "option --config.rate.size"),
        ("nested..rate", "3", "unknown option --config.nested..rate"),
        ("xyz", "3", "unknown option --config.xyz; `vit_jax config` lists all"),
    ],
)
def test_what_is_refused_changes_nothing(config, name, text, message):
    before = config.to_dict()
    with pytest.raises(InputError, match=message):
        set_option(config, name, text)
    assert config.to_dict() == before


@pytest.mark.parametrize(
    "name, meant",
    [
        ("optimizer.lr", "optimizer.learning_rate"),
        ("lr", "optimizer.learning_rate"),
        ("LR", "optimizer.learning_rate"),
        ("learning_rate", "optimizer.learning_rate"),
        ("learning_rte", "optimizer.learning_rate"),
        ("bs", "batch_size"),
        ("wd", "optimizer.weight_decay"),
        ("epochs", "total.epochs"),
        ("total_steps", "total.steps"),
        ("warmup", "optimizer.warmup.epochs"),
        ("optimizer.warmup_steps", "optimizer.warmup.steps"),
        ("mixup", "mixup.alpha"),
        ("modle.name", "model.name"),
        ("model.patch", "model.patch_size"),
        ("ema", "optimizer.ema_decay"),
        ("data.sorce", "data.source"),
        ("xyz", None),
    ],
)
def test_the_option_that_was_meant(name, meant):
    assert meant_option(default(), name) == meant


def write_config(path, body):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"from vit_jax.config import default, duration\ndef get_config():\n    {body}\n"
    )


def test_the_projects_configs_are_found_from_anywhere_and_own_ones_come_first(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert load_config("configs/quickstart.py:finetune").init_from.endswith("quickstart/pretrain")
    with pytest.raises(InputError, match=r"did you mean 'configs/quickstart.py'\?"):
        load_config("configs/quikstart.py")
    with pytest.raises(InputError, match="configs/nix.py does not exist; known: configs/augreg.py"):
        load_config("configs/nix.py")
    write_config(tmp_path / "configs/quickstart.py", "c = default(); c.seed = 7; return c")
    assert load_config("configs/quickstart.py").seed == 7


DURATIONS = ["total", "eval_every", "checkpoint.every", "checkpoint.local_every"]
DURATIONS += [
    "mixup.off_after",
    *(f"optimizer.{name}" for name in ("warmup", "cooldown", "horizon")),
]


def section(config, name):
    for part in name.split("."):
        config = config[part]
    return config


def test_every_duration_is_known():
    def found(config, name=""):
        for key, value in config.items():
            if is_duration(value):
                yield f"{name}{key}"
            elif isinstance(value, ConfigDict):
                yield from found(value, f"{name}{key}.")

    assert sorted(found(default())) == sorted(DURATIONS)


@pytest.mark.parametrize("name", DURATIONS)
def test_an_override_of_a_duration_replaces_the_units_of_the_file(
    name, tmp_path, monkeypatch, caplog
):
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path / "c.py", f"c = default(); c.{name} = duration(epochs=4); return c")
    caplog.set_level("INFO", logger="vit_jax")
    config = load_config("c.py", [f"--config.{name}.steps=50"])
    assert section(config, name).to_dict() == dict(steps=50, epochs=None, examples=None)
    assert caplog.messages == [
        f"--config.{name}.steps=50 replaces {name}.epochs=4.0 of the config file"
    ]


def test_a_unit_that_is_cleared_or_set_again_replaces_nothing(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path / "c.py", "c = default(); c.total = duration(epochs=4); return c")
    caplog.set_level("INFO", logger="vit_jax")
    config = load_config("c.py", ["--config.total.epochs=3", "--config.total.steps=None"])
    assert config.total.to_dict() == dict(steps=None, epochs=3.0, examples=None)
    assert caplog.messages == []


def test_two_units_on_one_command_line_contradict_each_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path / "c.py", "c = default(); c.total = duration(epochs=4); return c")
    config = load_config("c.py", ["--config.total.steps=5", "--config.total.examples=80"])
    with pytest.raises(InputError, match="config.total sets examples and steps; set one"):
        in_steps(config.total, name="total", batch_size=8, train_size=80)


@pytest.mark.parametrize("name", ["loss.name", "seed", "optimizer.name", "data.source", "task"])
def test_an_option_that_needs_a_value_is_not_none(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path / "c.py", "return default()")
    with pytest.raises(InputError, match=f"{name}( is None; it must have a|=None: give a) value"):
        load_config("c.py", [f"--config.{name}=None"])


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_config(tmp_path / "c.py", "c = default(); c.seed = 7; return c")
    assert load_config("~/c.py").seed == 7


@pytest.mark.parametrize(
    "body, message",
    [
        ("c = default()", "get_config returns nothing; make a config with vit_jax.config.default"),
        ("return {}", "get_config returns a dict; make"),
        ("return type(default())()", "missing; change options of vit_jax.config.default()"),
        ("c = default(); c.optimizer = dict(lr=3); return c", "optimizer.b1, "),
        (
            "c = default(); c.optimizer.lr = 3",
            r"line 3: unknown option 'optimizer.lr' \(did you mean 'optimizer.learning_rate'\?\)$",
        ),
        ("c = default(); c.optimizer.update(lr=3)", "'lr' .did you mean 'optimizer.learning_rate'"),
        ("default().modle.name", "unknown option 'modle' .did you mean 'model'"),
        ("default()['optmizer']", "unknown option 'optmizer' .did you mean 'optimizer'"),
        ("default().xyz = 3", "unknown option 'xyz'; `vit_jax config` lists all"),
        (
            "c = default(); c.unlock(); c.optimizer.learning_rat = 3; return c",
            r"line 3: unknown option 'optimizer.learning_rat' \(did you mean .*rate'\?\)$",
        ),
        (
            "c = default().unlock(); c.model.depth = 3\n    c.optimizer.depth = 3; return c",
            "line 4: unknown option 'optimizer.depth' .did you mean 'model.depth'",
        ),
        (
            "c = default().unlock(); c.modle = dict(depth=3); return c",
            "line 3: unknown option 'modle.depth' .did you mean 'model.depth'",
        ),
        ("c = default(); c.batch_size = 1.5", "line 3: .*1.5 is of original type float and cannot"),
        ("[].lr", "line 3: AttributeError: 'list' object has no attribute 'lr'$"),
        ("1 / 0", "line 3: ZeroDivisionError: division by zero$"),
        ("open('/nowhere')", "line 3: FileNotFoundError"),
    ],
)
def test_a_mistake_in_a_file_is_one_short_line(body, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path / "c.py", body)
    with pytest.raises(InputError, match=message) as caught:
        load_config("c.py")
    assert str(caught.value).startswith("config file c.py") and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
