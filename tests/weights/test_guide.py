"""The guides about weights: every command in them is one, and fine-tunes the file it names."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from vit_jax import data, models
from vit_jax.cli.commands.weights import convert as convert_command
from vit_jax.config_files import load_config
from vit_jax.train.run import Dataset, configure_model
from vit_jax.train.start import Start, lacks_preprocessing, with_preprocessing
from vit_jax.weights import Weights
from vit_jax.weights.fit import fit, other_normalization
from vit_jax.weights.record import parameter_shapes

ROOT = Path(__file__).parents[2]
GUIDE = "".join(
    (ROOT / "docs" / name).read_text()
    for name in ("weights.md", "weight_formats.md", "published_weights.md")
)
WORDS = [
    shlex.split(command, comments=True)
    for block in re.findall(r"```\n(vit_jax .*?)```", GUIDE, re.DOTALL)
    for command in block.replace("\\\n", " ").splitlines()
]
IMAGENET = "resize(224)|normalize"
# What the files hold: their names' model and, where the model's defaults do not say it, options.
FILES = {
    "B_16.npz": ("ViT-B/16", {}),
    "R26_S_32-i21k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0.npz": ("R26+ViT-S/32", {}),
    "ViT-B_16.npz": ("ViT-B/16", dict(pre_logits=768)),
    "s16_90ep.npz": ("ViT-S/16", dict(posemb="sincos2d", head="gap")),
    "BiT-M-R50x1.npz": ("BiT-R50x1", dict(preact=True)),
    "deit_base_distilled_patch16_224-df68dfff.pth": (
        "ViT-B/16",
        dict(gelu="erf", distillation="head", pp=IMAGENET),
    ),
    "deit_3_base_224_1k.pth": (
        "ViT-B/16",
        dict(gelu="erf", layer_scale=1e-4, posemb_class_slot=False, pp=IMAGENET),
    ),
    "facebook/dinov2-base": (
        "ViT-B/14",
        dict(gelu="erf", layer_scale=1.0, image_size=518, pp=IMAGENET, num_classes=0),
    ),
    "google/vit-base-patch16-224-in21k": (
        "ViT-B/16",
        dict(gelu="erf", norm_eps=1e-12, pre_logits=768, num_classes=0),
    ),
}


def option(words, name):
    return next(word.partition("=")[2] for word in words if word.startswith(f"--{name}="))


@pytest.mark.parametrize(
    "words",
    [words for words in WORDS if words[1] == "train"],
    ids=lambda words: option(words, "config.init_from"),
)
def test_a_command_fine_tunes_the_file_it_names(words, tmp_path, monkeypatch):
    """From the file's parameters to the run's, all are accounted for."""
    monkeypatch.chdir(ROOT)
    overrides = [word for word in words if word.startswith("--config.")]
    config = load_config(option(words, "config"), overrides)
    name, options = FILES[option(words, "config.init_from")]
    options = dict(dict(num_classes=21_843, pp="resize(224)|value_range(-1, 1)"), **options)
    pp = options.pop("pp")
    stored = models.model_config(name, **options)
    if lacks_preprocessing(config):
        start = Start(stored, Weights(name=name, options=options, pp=pp))
        config = with_preprocessing(config, tmp_path, start)

    prepared = data.parse(config.data.pp)
    size = prepared.output_size((500, 375))
    dataset = Dataset(3_680, 37, size, prepared.mean, prepared.std)
    wanted = configure_model(config, dataset, start=stored)
    for entry in config.evals.values():
        assert data.parse(entry.pp).output_size((500, 375)) == size
    assert other_normalization(pp, prepared.mean, prepared.std) == []

    source = {k: np.broadcast_to(np.float32(1), v) for k, v in parameter_shapes(stored).items()}
    fitted = fit(source, stored, wanted, skip=config.init_skip, resample=config.init_resample)
    assert fitted.fresh.keys() <= {
        "head/kernel",
        "head/bias",
        "head_dist/kernel",
        "head_dist/bias",
    }
    notes = [line.split()[1] for line in fitted.report if line.startswith("note")]
    assert notes == [name for name in ("head",) if any(f"model.{name}=" in word for word in words)]
    assert len(fitted.params) > 10


def test_conversions_in_the_guide_are_commands():
    import argparse

    parser = argparse.ArgumentParser()
    convert_command.add_arguments(parser)
    commands = [words for words in WORDS if words[1] == "convert"]
    assert len(commands) >= 2
    for words in commands:
        convert_command._options(parser.parse_args(words[2:]).set)


def test_every_train_command_has_a_description_of_its_file():
    commands = [words for words in WORDS if words[1] == "train"]
    assert {option(words, "config.init_from") for words in commands} == FILES.keys()
