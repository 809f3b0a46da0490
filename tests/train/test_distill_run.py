"""Runs with a teacher: resume, what is stored, what is refused."""

import json
import shutil

import jax
import numpy as np
import pytest

from tests.train.distilling import run_config
from vit_jax.checkpoint.load import load, read_weights
from vit_jax.checkpoint.stored import read_meta
from vit_jax.errors import InputError
from vit_jax.evaluate.stored import evaluate_checkpoint
from vit_jax.train import loop


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A model of digits at 12 pixels, with another normalisation, after one step."""
    path = tmp_path_factory.mktemp("teacher")
    pp = "resize(12)|value_range(0, 1)"
    loop.train(run_config(1, **{"data.pp": pp, "model.width": 48}), str(path))
    return str(path)


def distilling(teacher, steps, **options):
    chosen = {"task": "distill", "distill.teacher": teacher, "distill.kind": "soft"}
    return run_config(steps, **chosen | options)


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_resume_is_exact_and_reads_the_same_teacher_again(teacher, tmp_path, monkeypatch):
    moved = tmp_path / "teacher"
    shutil.copytree(teacher, moved)
    options = {"distill.kind": "feature", "distill.alpha": 0.5, "log.every": 1}
    options |= {"optimizer.schedule": "constant"}
    own = str(moved)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    loop.train(distilling(own, 6, **options), str(whole))
    loop.train(distilling(own, 3, **options), str(parts))
    meta = read_meta(parts / "checkpoints" / "3")
    assert meta["teacher"]["path"] == str(moved) and len(meta["teacher"]["fingerprint"]) == 16
    loop.train(distilling(own, 6, **options), str(parts))
    for a, b in zip(lines(whole), lines(parts), strict=True):
        assert a["train/loss"] == b["train/loss"]
    first, second = (
        jax.tree.leaves(read_weights(str(path), task_params=True).params) for path in (whole, parts)
    )
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)

    # What is stored has no teacher, and is a model like others.
    names = set(read_weights(str(whole), task_params=True).params)
    assert names - set(read_weights(str(whole)).params) == {"distill"}
    model, info = load(str(whole))
    assert info.config.num_classes == 10
    assert evaluate_checkpoint(str(whole), source="digits", split="train[80%:]")["examples"] == 359

    monkeypatch.setattr("vit_jax.train.distill.teacher._digest", lambda found: "another")
    with pytest.raises(InputError, match="other parameters than when the run began"):
        loop.train(distilling(own, 9, **options), str(parts))


def test_teachers_that_do_not_fit_are_refused_before_the_workdir_is_claimed(teacher, tmp_path):
    workdir = tmp_path / "run"
    for options, match in (
        ({"distill.teacher": str(tmp_path / "missing")}, "missing"),
        ({"model.num_classes": 11}, "config.distill.teacher has|to be matched"),
        ({"model.distillation": "head", "distill.alpha": 1.0}, "alpha below 1"),
        ({"model.distillation": "head", "distill.kind": "feature"}, "'soft' or 'hard'"),
    ):
        with pytest.raises(InputError, match=match):
            loop.train(distilling(teacher, 3, **options), str(workdir))
        assert not workdir.exists()
