"""A run's config that was edited or damaged: evaluation works or is refused in one line."""

import json
import shutil
import sys

import pytest

from vit_jax.checkpoint.load import read_weights, run_config
from vit_jax.checkpoint.stored import latest_checkpoint
from vit_jax.errors import InputError
from vit_jax.evaluate import predict, stored
from vit_jax.evaluate.stored import evaluate_checkpoint, own_pair
from vit_jax.models import create_model

VALUES = [None, [], 10**40, 1e29, "x", {"a": [[1]]}, ...]


def places(tree, path=()):
    """The path of every key, of sections and of single options."""
    for key, value in tree.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from places(value, (*path, key))


def changed(tree, path, value):
    """A copy with another value at a path; ...: without it."""
    key, *rest = path
    if rest:
        return {**tree, key: changed(tree[key], rest, value)}
    return {k: v for k, v in {**tree, key: value}.items() if v is not ...}


@pytest.fixture
def checkpoint(workdir, tmp_path):
    """A checkpoint without its list of files, whose checksums would tell."""
    shutil.copytree(workdir, tmp_path / "run")
    found = latest_checkpoint(tmp_path / "run")
    (found / "files.json").unlink()
    return found


@pytest.mark.parametrize(
    "section", ["data", "loss", "mixup", "evals", "checkpoint", "seed", "task"]
)
def test_any_value_in_a_runs_config(section, checkpoint, monkeypatch):
    """All that reads the config runs; evaluation itself is left out."""
    monkeypatch.setattr(stored.Stored, "run", lambda self, evaluation: {})
    monkeypatch.setattr(stored, "replicate", lambda engine, params: params)
    params = read_weights(checkpoint, task_params=True).params
    monkeypatch.setattr(sys.modules[run_config.__module__], "read_params", lambda *_, **__: params)
    path = checkpoint / "meta" / "metadata"
    whole = json.loads(path.read_text())
    workdir, model = checkpoint.parents[1], create_model("ViT-Ti/16", depth=1, num_classes=2)
    refused = 0
    for place in places({section: whole["config"][section]}):
        if section == "checkpoint" and place[1:] not in ((), ("best",)):
            continue  # nothing else of it is read
        for value in VALUES:
            config = changed(whole["config"], place, value)
            path.write_text(json.dumps({**whole, "config": config}))
            try:
                evaluate_checkpoint(str(workdir))
                weights = read_weights(workdir)
                own_pair(weights, None, None, None)
                predict.Predictor(model, weights)
            except InputError as error:
                refused += 1
                assert "\n" not in str(error) and len(str(error)) < 600, (place, value)
    assert refused


def test_what_is_refused_is_named(checkpoint):
    path = checkpoint / "meta" / "metadata"
    whole = json.loads(path.read_text())
    for place, value, message in [
        (("data", "source"), 3, "config.data.source is 3, not a text"),
        (
            ("data", "threads"),
            "x",
            "in the config of the run, data.threads is 'x', not of type int",
        ),
        (("evals",), [], r"config.evals is \[\], not an object"),
        (("evals", "test", "split"), None, "config.evals.test.split is None, not a text"),
        (("loss", "name"), 3, "in the config of the run, loss.name is 3, not of type str"),
    ]:
        config = changed(whole["config"], place, value)
        path.write_text(json.dumps({**whole, "config": config}))
        with pytest.raises(InputError, match=message):
            evaluate_checkpoint(str(checkpoint))
