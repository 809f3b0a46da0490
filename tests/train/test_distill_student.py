"""A model learns digits from a teacher, without labels."""

import pytest

from tests.train.distilling import run_config
from vit_jax import config as configs
from vit_jax.train import loop


def with_test(config):
    with config.unlocked():
        config.evals.test = configs.evaluation(split="train[80%:]")
    return config


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A classifier of digits at 12 pixels, with another normalisation."""
    path = tmp_path_factory.mktemp("teacher")
    pp = "resize(12)|value_range(0, 1)"
    config = with_test(run_config(90, **{"data.pp": pp, "model.width": 48}))
    return str(path), loop.train(config, str(path))["metrics"]["eval/test/top1"]


def distilling(teacher, steps, **options):
    chosen = {"task": "distill", "distill.teacher": teacher[0]}
    return run_config(steps, **chosen | options)


def test_a_student_reaches_its_teacher_without_labels(teacher, tmp_path):
    """With alpha=1 the loss is the teacher's alone."""
    options = {"distill.alpha": 1.0, "model.patch_dropout": 0.25}
    config = with_test(distilling(teacher, 120, **options))
    found = loop.train(config, str(tmp_path))["metrics"]["eval/test/top1"]
    assert teacher[1] > 0.8
    assert found > teacher[1] - 0.06
