"""Runs with LoRA: written for peft, merged, resumed, begun from, refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

import vit_jax
from tests.weights.lora_models import (
    CLASSES,
    SIZES,
    assert_close,
    base_model,
    flat,
    logits_of,
    ours_of,
    peft,
    pixels,
    run_config,
    transformers,
    with_peft,
)
from vit_jax import config as configs
from vit_jax.cli.main import main
from vit_jax.errors import InputError
from vit_jax.train import loop
from vit_jax.train.optim import trained_tree
from vit_jax.train.run import Dataset, prepare
from vit_jax.trees import named_leaves
from vit_jax.weights import read, write


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folders of a base model and of a LoRA run that starts from it, and its summary."""
    folder = tmp_path_factory.mktemp("lora")
    base_model("vit", folder / "base")
    config = run_config(folder / "base")
    with config.unlocked():
        config.evals.test = configs.evaluation(split="train[:64]", batch_size=64)
    summary = loop.train(config, str(folder / "run"))
    return folder / "base", folder / "run", summary, config


def test_a_runs_adapter_is_read_by_peft_and_by_itself_merged(done, tmp_path, capsys):
    base, workdir, summary, _ = done
    model, info = vit_jax.load(workdir)
    images = pixels()
    merged = ours_of(model, images)
    assert not np.allclose(merged, ours_of(vit_jax.load(base)[0], images), atol=1e-2)
    assert main(["convert", str(workdir), str(tmp_path / "adapter"), "--format=peft"]) == 0
    theirs = transformers.ViTForImageClassification.from_pretrained(base)
    adapted = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
    assert_close(merged, logits_of(adapted, images))
    again = vit_jax.load(base, adapter=tmp_path / "adapter")[0]
    assert_close(ours_of(again, images), merged)
    # Merged into the files of transformers.
    assert main(["convert", str(workdir), str(tmp_path / "merged")]) == 0
    whole = transformers.ViTForImageClassification.from_pretrained(tmp_path / "merged").eval()
    assert_close(merged, logits_of(whole, images))
    # The summary counts as peft does.
    trainable, all_params = with_peft(
        transformers.ViTForImageClassification.from_pretrained(base)
    ).get_nb_trainable_parameters()
    # peft keeps the frozen head beside the trained one.
    head = CLASSES * (SIZES["hidden_size"] + 1)
    assert (summary["trained_params"], summary["params"]) == (trainable, all_params - head)
    assert summary["peak_memory_bytes"] > 0
    capsys.readouterr()
    assert main(["evaluate", "--checkpoint", str(workdir), "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert evaluated["loss"] == pytest.approx(summary["metrics"]["eval/test/loss"], rel=1e-4)


def test_names_of_transformers_4(done, tmp_path):
    base, workdir, _, _ = done
    main(["convert", str(workdir), str(tmp_path / "old"), "--format=peft_transformers4"])
    names = load_file(tmp_path / "old" / "adapter_model.safetensors")
    stem = "base_model.model.vit.encoder.layer.1.attention.attention.value"
    assert {f"{stem}.lora_A.weight", f"{stem}.lora_B.weight"} <= names.keys()
    found = vit_jax.load(base, adapter=tmp_path / "old")[0]
    assert_close(ours_of(found, pixels()), ours_of(vit_jax.load(workdir)[0], pixels()))


def test_a_run_that_goes_on_is_that_without_interruption(done, tmp_path):
    """Its second half under pmap."""
    base, workdir, _, config = done
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.total.steps = 2
        loop.train(config, str(tmp_path / "run"))
        config.parallel.engine = "pmap"
        config.total.steps = 4
        loop.train(config, str(tmp_path / "run"))
    once, twice = (flat(read_params(path)) for path in (workdir, tmp_path / "run"))
    for path, leaf in once.items():
        np.testing.assert_allclose(twice[path], leaf, rtol=0, atol=1e-4)


def read_params(workdir):
    from vit_jax.checkpoint.stored import latest_checkpoint, read_params

    return read_params(latest_checkpoint(workdir))


def test_a_run_starts_from_a_lora_run_and_from_an_adapter(done, tmp_path):
    base, workdir, _, _ = done
    main(["convert", str(workdir), str(tmp_path / "adapter"), "--format=peft"])
    options = {"total.steps": 1, "optimizer.learning_rate": 0.0, "lora.rank": 0, "lora.alpha": 16.0}
    loop.train(run_config(workdir, **options), str(tmp_path / "a"))
    adapter = {"init_adapter": str(tmp_path / "adapter")}
    loop.train(run_config(base, **options, **adapter), str(tmp_path / "b"))
    (tmp_path / "adapter" / "adapter_config.json").unlink()
    with pytest.raises(InputError, match="has no adapter_config.json"):
        loop.train(run_config(base, **options, **adapter), str(tmp_path / "c"))
    assert not (tmp_path / "c" / "config.json").exists()
    expected = ours_of(vit_jax.load(workdir)[0], pixels())
    for name in "ab":
        assert_close(ours_of(vit_jax.load(tmp_path / name)[0], pixels()), expected)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"lora.targets": ("quary",)}, "did you mean 'query'"),
        ({"lora.targets": ()}, "lora.targets is empty"),
        ({"lora.targets": ("query", "query")}, "names a projection twice"),
        ({"lora.rank": 0}, "lora.alpha needs config.lora.rank above 0"),
        ({"lora.rank": -1}, "lora.rank is -1"),
        ({"lora.alpha": 0.0}, "lora.alpha is 0"),
        ({"model.name": "BiT-R50x1", "init_from": ""}, "no 'query' in Transformer blocks"),
        ({"task": "masked", "init_from": ""}, "the model of this task has no head"),
        ({"init_from": "", "init_adapter": "somewhere"}, "init_adapter needs the weights"),
    ],
    ids=str,
)
def test_options_that_are_refused(options, message, done, tmp_path):
    config = run_config(done[0], **options)
    if not config.init_from:
        if config.model.name is None:
            config.model.name = "ViT-Ti/4"
        config.data.pp = "resize(32)|value_range(-1, 1)"
    with pytest.raises(InputError, match=message):
        loop.train(config, str(tmp_path / "run"))
    assert not (tmp_path / "run" / "config.json").exists()


def test_weights_without_adapter_have_none_to_write(done, tmp_path):
    with pytest.raises(InputError, match="hold no adapter"):
        write(read(done[0]), tmp_path / "x", format="peft")


def test_only_adapter_and_head_are_trained(done):
    run = prepare(
        done[3],
        Dataset(100, CLASSES, (8, 8), (0.5,) * 3, (0.5,) * 3),
        start=read(done[0]).config,
    )
    trained = named_leaves(trained_tree(run.config.optimizer, run.abstract.params))
    assert {path for path, mask in trained.items() if mask} == {
        "head/bias",
        "head/kernel",
        *(
            f"lora/blocks/attention/{name}/{letter}/kernel"
            for name in ("query", "value")
            for letter in "ab"
        ),
    }
