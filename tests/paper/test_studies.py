"""The small-scale studies: their runs are what `vit_jax train` takes."""

from pathlib import Path

import pytest

from vit_jax import models
from vit_jax.data import parse
from vit_jax.paper.recipes import recipes
from vit_jax.paper.results import load_run_config
from vit_jax.paper.small_scale import STAND_INS, TABLES
from vit_jax.paper.studies import STUDIES


@pytest.mark.parametrize("study", STUDIES)
def test_the_runs_of_small_studies_are_what_train_takes(study):
    check(STUDIES[study]().cells)


@pytest.mark.parametrize("number", TABLES)
def test_the_runs_of_small_tables_are_what_train_takes(number):
    check(recipes(number, "small"))
    assert STAND_INS[number]


def test_a_learning_rate_is_chosen_on_images_that_are_held_out():
    recipe = recipes(5, "small")["JFT: CIFAR-100", "ViT-B/16"]
    for _, run in recipe.choices:
        config = loaded(run)
        assert config.data.split == "train[50000:50240]"
        assert config.evals.test.split == "train[50240:50300]"
    final = loaded(recipe.runs[0])
    assert (final.data.split, final.evals.test.split) == ("train[50000:50300]", "test")
    assert loaded(recipe.runs[0].start).data.split == "train[:50000]"


def check(cells):
    for recipe in cells.values():
        runs = [*recipe.runs, *(run for _, run in recipe.choices)]
        assert len({run.workdir for run in runs}) == len(runs)
        seeds = [config.seed for config in map(loaded, recipe.runs)]
        assert seeds in ([0], [0, 1, 2], [0, 1, 2, 3, 4])
        for run in runs:
            config = loaded(run)
            options = {key: value for key, value in config.model.items() if key != "name"}
            options |= dict(image_size=parse(config.data.pp).image_size, num_classes=10)
            models.model_config(config.model.name, **options)
            if run.start:
                assert config.init_from == f"runs/{run.start.workdir}" and loaded(run.start)


def loaded(run):
    return load_run_config(run, Path("runs"))
