"""Model soups beside the mean of the runs' arrays, and the paper's greedy recipe by hand."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import traverse_util

import vit_jax
from vit_jax import InputError, models, weights
from vit_jax.checkpoint import read_weights
from vit_jax.cli.main import main
from vit_jax.evaluate import soup
from vit_jax.evaluate.stored import evaluate_checkpoint
from vit_jax.weights.record import Weights, parameter_shapes

OPTIONS = dict(width=16, depth=2, mlp_dim=32, num_heads=2, num_classes=10, image_size=8)
PP = "resize(8)|value_range(-1, 1)"


def drawn(seed, **options):
    options = OPTIONS | options
    config = models.model_config("ViT-Ti/4", **options)
    rng = np.random.default_rng(seed)
    flat = {
        path: (0.3 * rng.normal(size=shape)).astype(np.float32)
        for path, shape in parameter_shapes(config).items()
    }
    return Weights(
        name="ViT-Ti/4",
        options=options,
        params=traverse_util.unflatten_dict(flat, sep="/"),
        pp=PP,
        labels=[str(i) for i in range(options["num_classes"])],
    )


@pytest.fixture
def runs(tmp_path):
    paths = [str(tmp_path / f"{i}.npz") for i in range(3)]
    for seed, path in enumerate(paths):
        weights.write(drawn(seed), path)
    return paths


def mean(*trees):
    return jax.tree.map(lambda *x: np.mean(np.float64(x), axis=0), *trees)


def test_the_file_holds_the_mean_with_labels_and_preprocessing(runs, tmp_path, capfd):
    target = str(tmp_path / "soup.safetensors")
    assert main(["soup", *runs, target, "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert [one["used"] for one in document["runs"]] == [True] * 3 and document["top1"] is None
    found = read_weights(target)
    expected = mean(*(drawn(seed).params for seed in range(3)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), found.params, expected)
    assert found.labels == [str(i) for i in range(10)]
    _, info = vit_jax.load(target)
    assert info.config.width == 16 and info.pp == PP


def test_the_greedy_recipe(runs):
    """Accuracies as a table: 2 is best; with 0 it falls; with 1 it stays, so 1 is in."""
    drawns = [drawn(seed) for seed in range(3)]
    sets = {(0,): 0.5, (1,): 0.6, (2,): 0.7, (0, 1, 2): 0.6, (1, 2): 0.7, (0, 2): 0.9}
    table = [(mean(*(drawns[i].params for i in members)), value) for members, value in sets.items()]

    def top1(params):
        leaf = np.asarray(jax.tree.leaves(params)[0])
        distance = [np.abs(leaf - jax.tree.leaves(tree)[0]).max() for tree, _ in table]
        assert min(distance) < 1e-6
        return table[int(np.argmin(distance))][1]

    made = soup._greedy(runs, drawns, top1)
    assert [one.path for one in made.ingredients] == [runs[2], runs[1], runs[0]]
    assert [one.used for one in made.ingredients] == [True, True, False]
    assert made.top1 == 0.7
    expected = mean(drawns[2].params, drawns[1].params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), made.weights.params, expected
    )


@pytest.mark.slow
def test_a_greedy_soup_decides_by_the_evaluation_of_the_command(runs, tmp_path, capfd):
    target = str(tmp_path / "soup.npz")
    data = ["--source=digits", "--split=train[80%:]"]
    assert main(["soup", *runs[:2], target, "--greedy", "--json", *data]) == 0
    document = json.loads(capfd.readouterr().out)
    for one in document["runs"]:
        alone = evaluate_checkpoint(one["path"], source="digits", split="train[80%:]")
        assert one["top1"] == pytest.approx(alone["top1"])
    stored = evaluate_checkpoint(target, source="digits", split="train[80%:]")
    assert document["top1"] == pytest.approx(stored["top1"])
    assert document["top1"] >= max(one["top1"] for one in document["runs"])


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(num_classes=4), "num_classes of .*other.npz is 4, that of .*0.npz is 10"),
        (dict(depth=1), "depth of .* is 1, that of .* is 2"),
    ],
)
def test_runs_of_different_models_are_refused_by_the_first_difference(
    change, message, runs, tmp_path
):
    weights.write(drawn(5, **change), tmp_path / "other.npz")
    with pytest.raises(InputError, match=message):
        soup.uniform_soup([runs[0], str(tmp_path / "other.npz")])


def test_other_refusals(runs, tmp_path, capfd):
    relabelled = dataclasses.replace(drawn(1), labels=list("abcdefghij"))
    weights.write(relabelled, tmp_path / "other.npz")
    with pytest.raises(InputError, match="labels of .*other.npz is"):
        soup.uniform_soup([runs[0], str(tmp_path / "other.npz")])
    for arguments, message in [
        ([runs[0], str(tmp_path / "x.npz")], "at least two runs"),
        ([*runs, str(tmp_path / "x.npz"), "--split=test"], "--split goes with --greedy"),
        ([runs[0], runs[1]], "exists; give another path"),
        ([*runs, str(tmp_path / "x.npz"), "--greedy"], "names no evaluation data"),
    ]:
        assert main(["soup", *arguments]) == 2
        error = capfd.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not (tmp_path / "x.npz").exists()
