"""Probes of every layer: features as in transformers, accuracy as of the plain probe."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vit_jax
from vit_jax.cli.main import main
from vit_jax.errors import InputError
from vit_jax.evaluate.frozen.probe import chosen_layers
from vit_jax.models import model_config

SPLITS = ["--source=digits", "--train=train[:30%]", "--test=train[70%:]"]


@pytest.mark.parametrize("head", ["token", "gap"])
def test_features_of_a_vit_are_those_of_transformers(head, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers", minversion="5.0")
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40,
        image_size=12, patch_size=4,
    )  # fmt: skip
    theirs = transformers.ViTModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    theirs.save_pretrained(tmp_path / "vit")
    options = dict(head="gap", class_token=True) if head == "gap" else {}
    model, _ = vit_jax.load(str(tmp_path / "vit"), image_size=12, **options)
    images = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype(np.float32)
    with torch.no_grad():
        pixels = torch.tensor(images.transpose(0, 3, 1, 2))
        states = theirs(pixels, output_hidden_states=True).hidden_states
        layers = getattr(theirs, "layers", None) or theirs.encoder.layer
        normed = [layer.layernorm_before(x) for layer, x in zip(layers, states)]
        normed.append(theirs.layernorm(states[-1]))
    pooled = [x[:, 0] if head == "token" else x[:, 1:].mean(1) for x in normed]
    found = jax.jit(lambda images: model.layer_features(images))(jnp.asarray(images))
    expected = np.stack([x.numpy() for x in pooled], 1)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_last_layer_is_what_the_plain_probe_sees(workdir, capsys):
    probe = ["probe", f"--checkpoint={workdir}", *SPLITS]
    assert main([*probe, "--layers=all", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["layer"] for row in found["layers"]] == [0, 1, 2]
    # Training logs numbers: there each layer has a metric of its own.
    assert [found[f"layer{row['layer']}/top1"] for row in found["layers"]] == [
        row["top1"] for row in found["layers"]
    ]
    assert main([*probe, "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert found["layers"][2]["top1"] == plain["top1"] > 0.3
    # The class token has seen no image before the first block.
    assert found["layers"][0]["top1"] < 0.2
    assert found["top1"] == max(row["top1"] for row in found["layers"])
    assert main([*probe, "--layers=0,2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["layer", "top-1"]
    assert lines[2].split() == ["2", f"{plain['top1']:.2%}"]
    assert lines[3].endswith("the best layer: 2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layers=3"], "different numbers from 0 to 2"),
        (["--layers=1,1"], "different numbers from 0 to 2"),
        (["--layers=some"], "give 'all', or different numbers"),
        (["--layers="], "--layers is empty"),
        (["--layers=all", "--method=knn"], "--layers needs --method=linear"),
    ],
)
def test_layers_that_are_not_there_are_refused(arguments, message, workdir, capsys):
    assert main(["probe", f"--checkpoint={workdir}", *SPLITS, *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error


def test_a_resnet_has_no_such_layers():
    with pytest.raises(InputError, match="a BiT has none"):
        chosen_layers("all", model_config("BiT-R50x1"), "layers")
