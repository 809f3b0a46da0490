"""Wrong types in the Python functions are one line that names the argument; results are typed."""

import typing
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import vit_jax
from vit_jax.cli.main import main
from vit_jax.config import default
from vit_jax.data.named import find_images
from vit_jax.errors import InputError
from vit_jax.models import model_config
from vit_jax.models.resnet import BiT
from vit_jax.models.vit import ViT

MODEL = "vit_jax/fashion-mnist"
IMAGE = np.zeros((28, 28), np.uint8)
WRONG_PATHS = (None, 3, ["x"], b"x")


@pytest.mark.parametrize("value", WRONG_PATHS)
def test_what_is_no_path_is_named(value, tmp_path):
    calls = {
        "weights": [
            lambda: vit_jax.finetune(value, "photos"),
            lambda: vit_jax.predict(value, IMAGE),
        ],
        "data": [lambda: vit_jax.finetune(MODEL, value)],
        "workdir": [
            lambda: vit_jax.finetune(MODEL, "photos", workdir=value),
            lambda: vit_jax.train(default(), value),
        ],
        "path": [lambda: vit_jax.load(value), lambda: vit_jax.evaluate(value)],
        "adapter": [lambda: vit_jax.load(MODEL, adapter=value)],
        "name": [lambda: vit_jax.create_model(value)],
        "spec": [lambda: vit_jax.load_config(value)],
    }
    for name, functions in calls.items():
        for call in functions:
            with pytest.raises(InputError, match=f"^{name} (is|are) ") as caught:
                call()
            assert "\n" not in str(caught.value) and "give" in str(caught.value)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: vit_jax.train({"seed": 1}, "run"), "config is {'seed': 1}; give a config"),
        (lambda: vit_jax.train(None, "run"), "config is None; give a config"),
        (lambda: vit_jax.finetune(MODEL, "x", epochs="3"), "epochs is '3'; give a number or None"),
        (lambda: vit_jax.finetune(MODEL, "x", image_size=8.5), "image_size is 8.5; give a whole"),
        (lambda: vit_jax.finetune(MODEL, "x", jobs=None), "jobs is None; give a whole number"),
        (lambda: vit_jax.finetune(MODEL, "x", method=3), "method is 3; give a text"),
        (lambda: vit_jax.finetune(MODEL, "x", overrides=3), "overrides is 3; give a dict"),
        (lambda: vit_jax.finetune(MODEL, "x", overrides="seed=3"), "overrides is 'seed=3'; give"),
        (lambda: vit_jax.finetune(MODEL, "x", overrides=[3]), "overrides is 3; give a text"),
        (lambda: vit_jax.evaluate(MODEL, source=3), "source is 3; give a text or None"),
        (lambda: vit_jax.evaluate(MODEL, batch_size="8"), "batch_size is '8'; give a whole"),
        (lambda: vit_jax.evaluate(MODEL, use_ema="yes"), "use_ema is 'yes'; give True or False"),
        (lambda: vit_jax.predict(MODEL, IMAGE, topk="3"), "topk is '3'; give a whole number"),
        (lambda: vit_jax.load(MODEL, leave_out="head"), "leave_out is 'head'; give a list"),
        (lambda: vit_jax.list_models(3), "pattern is 3; give a text"),
        (lambda: vit_jax.list_models(None, pretrained=True), "pattern is None; give a text"),
        (lambda: vit_jax.load_config("x.py", "seed=3"), "overrides is 'seed=3'; give a list"),
        (lambda: vit_jax.create_model("ViT-B/16", num_classes="ten"), "model.num_classes is 'ten'"),
        (lambda: vit_jax.create_model("ViT-B/16", width=[3]), r"model.width is \[3\]"),
        (lambda: vit_jax.create_model("ViT-B/16", dropout="0"), "model.dropout is '0'; it must be"),
    ],
)
def test_wrong_types_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_messages_name_arguments_as_they_are_written(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="names no evaluation data; give source and split$"):
        vit_jax.evaluate(MODEL)
    assert main(["evaluate", f"--checkpoint={MODEL}"]) == 2
    assert "names no evaluation data; give --source and --split" in capsys.readouterr().err
    with pytest.raises(InputError, match="^pp=resize"):
        vit_jax.evaluate(MODEL, source="digits", pp="resize(28)")


def test_files_are_sorted_by_the_numbers_in_their_names(tmp_path):
    names = ["10.png", "2.png", "1.png", "a10.png", "a9.png"]
    for name in names:
        Image.fromarray(IMAGE).save(tmp_path / name)
    expected = ["1.png", "2.png", "10.png", "a9.png", "a10.png"]
    for given in (str(tmp_path), f"{tmp_path}/*.png"):
        assert [Path(path).name for path in find_images([given])] == expected


@pytest.mark.parametrize("kind", ["axial", "window(7)", "quadratic"])
def test_a_size_that_does_not_divide_is_said_first(kind):
    options = dict(attention_kind=kind, image_size=50)
    with pytest.raises(InputError, match="image size 50 is not divisible by the patch size 16"):
        vit_jax.create_model("ViT-Ti/16", **options)
    if kind == "window(7)":  # its own complaint, at a size that divides
        with pytest.raises(InputError, match="window"):
            model_config("ViT-Ti/16", attention_kind=kind, image_size=48)


@pytest.mark.parametrize("kind", [ViT, BiT])
def test_results_of_models_have_types(kind):
    """Without intermediates an array, with them a pair: type checkers choose by the literal."""
    found = {}
    for one in typing.get_overloads(kind.__call__):
        hints = typing.get_type_hints(one)
        found[typing.get_args(hints["return_intermediates"])] = hints["return"]
    assert found == {(False,): jax.Array, (True,): tuple[jax.Array, dict[str, jax.Array]]}
