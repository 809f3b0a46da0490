"""`vit_jax config`: every option of a config, as its section declares it."""

import json

import pytest
from ml_collections import ConfigDict

from vit_jax.cli.main import main
from vit_jax.config import default
from vit_jax.options import EFFECTS, flatten


def options(capfd, *words):
    assert main(["config", *words, "--json"]) == 0
    return {one["name"]: one for one in json.loads(capfd.readouterr().out)}


def test_every_option_of_a_config_is_listed_with_its_default(capfd):
    listed = options(capfd)
    config = default()
    names = {name for name, value in flatten(config) if not isinstance(value, ConfigDict)}
    assert names == {name for name in listed if not name.startswith("evals.")}
    for name in names - {name for name in names if name.startswith("model.")}:
        value = dict(flatten(config))[name]
        assert listed[name]["default"] == (list(value) if isinstance(value, tuple) else value)
    assert all(one["meaning"] and one["effect"] in EFFECTS for one in listed.values())
    assert listed["evals.NAME[fewshot].shots"]["default"]


def test_a_section_a_name_a_pattern(capfd):
    assert all(name.startswith("optimizer.") for name in options(capfd, "optimizer"))
    assert "optimizer.warmup.steps" in options(capfd, "optimizer")
    assert options(capfd, "seed").keys() == {"seed"}
    assert "optimizer.learning_rate" in options(capfd, "*rate*")
    assert main(["config", "seed"]) == 0
    assert capfd.readouterr().out.startswith("seed = 0  (int; at least 0; computation)\n    of in")


@pytest.mark.parametrize("word, hint", [("optimiser", "optimizer"), ("sed", "seed")])
def test_an_unknown_option_names_the_nearest(word, hint, capfd):
    assert main(["config", word]) == 2
    assert f"did you mean {hint!r}" in capfd.readouterr().err


def test_an_option_like_no_other_is_one_short_line(capfd):
    assert main(["config", "zzz"]) == 2
    assert capfd.readouterr().err == "vit_jax: unknown option 'zzz'; `vit_jax config` lists all\n"
