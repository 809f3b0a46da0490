"""What a run says about its data."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from vit_jax import config as configs
from vit_jax.errors import InputError, Preempted
from vit_jax.evaluate.stored import evaluate_checkpoint
from vit_jax.parallel.engines import create_engine
from vit_jax.train import batches, loop
from vit_jax.train.health.preemption import PreemptionWatch
from vit_jax.train.log import clock


@pytest.fixture
def config(tmp_path):
    """Six steps of a small model on an archive of 40 pictures."""
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8)
    np.savez(tmp_path / "pictures.npz", images=images, labels=np.arange(40) % 4)
    config = configs.default()
    config.model.update(name="ViT-Ti/4", width=16, depth=1, mlp_dim=16, num_heads=1)
    config.data.update(source=f"npz:{tmp_path}/pictures.npz", pp="flip_lr|value_range(-1, 1)")
    config.batch_size = 8
    config.total.steps = 6
    config.log.update(every=2, tensorboard=False)
    return config


def delayed(function, now, seconds):
    """The function, with a clock that moves on by so much at each call."""

    def call(*args, **options):
        now[0] += seconds
        return function(*args, **options)

    return call


def test_waiting_for_data_is_its_share_of_the_training_time(config, tmp_path, monkeypatch):
    """By a clock that only batches (3 s each) and steps (1 s) move."""
    now = [0.0]
    monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: now[0]))
    slow = delayed(loop.TrainingBatches.__next__, now, 3)
    monkeypatch.setattr(loop.TrainingBatches, "__next__", slow)
    monkeypatch.setattr(loop.Loop, "_land", delayed(loop.Loop._land, now, 1))
    loop.train(config, str(tmp_path / "run"))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    middle = json.loads(lines[1])
    assert middle["step"] == 4
    assert middle["train/data_wait"] == pytest.approx(0.75)
    assert middle["train/images_per_second"] == pytest.approx(2 * 8 / 8)


@pytest.mark.parametrize("engine", ["pjit", "pmap"])
@pytest.mark.parametrize("task", ["classify", "masked"])
def test_flips_on_an_accelerator_are_those_of_the_host(config, task, engine, tmp_path, monkeypatch):
    config.parallel.engine, config.task = engine, task
    config.data.pp = "random_crop(8, padding=2)|flip_lr|value_range(-1, 1)"
    loop.train(config, str(tmp_path / "host"))
    put, seen = create_engine(config.parallel).put_batch, []

    def put_batch(self, batch, batch_size):
        seen.append(sorted(batch))
        return put.__func__(self, batch, batch_size)

    monkeypatch.setattr(type(put.__self__), "put_batch", put_batch)
    monkeypatch.setattr(batches.jax, "default_backend", lambda: "tpu")
    loop.train(config, str(tmp_path / "device"))
    fields = ("flip", "image") if task == "masked" else ("flip", "image", "label")
    assert seen and set(map(tuple, seen)) == {fields}
    found, wanted = (
        [json.loads(line)["train/loss"] for line in (tmp_path / name / "metrics.jsonl").open()]
        for name in ("device", "host")
    )
    assert found == pytest.approx(wanted, rel=1e-5)


def test_a_set_that_lacks_classes_is_evaluated_by_their_names(tmp_path):
    """Without zeros the folders of the others are numbered from 0: numbers would be off by one."""
    digits = load_digits()
    for i in range(300):
        for name in ("all", "no_zeros"):
            folder = tmp_path / name / str(digits.target[i])
            if name == "all" or digits.target[i]:
                folder.mkdir(parents=True, exist_ok=True)
                pixels = (digits.images[i] * 255 / 16).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    config = configs.default()
    config.model.update(name="ViT-Ti/4", width=32, depth=1, mlp_dim=64, num_heads=2)
    config.data.update(source=f"folder:{tmp_path}/all", pp="resize(8)|value_range(-1, 1)")
    config.batch_size = 64
    config.total.steps = 100
    config.optimizer.learning_rate = 3e-3
    config.optimizer.ema_decay = 0.9
    config.log.tensorboard = False
    with config.unlocked():
        config.evals.few = configs.evaluation(
            source=f"folder:{tmp_path}/no_zeros", split="train", use_ema=True
        )
    metrics = loop.train(config, str(tmp_path / "run"))["metrics"]
    assert metrics["eval/few/top1"] > 0.8
    # Alone it finds the same by itself: the set, and that averages are to be used.
    alone = evaluate_checkpoint(str(tmp_path / "run"))
    assert alone["top1"] == pytest.approx(metrics["eval/few/top1"], abs=1e-6)
    assert alone["loss"] == pytest.approx(metrics["eval/few/loss"], rel=1e-5)
    plain = evaluate_checkpoint(str(tmp_path / "run"), use_ema=False)
    assert abs(plain["loss"] - alone["loss"]) > 1e-4


def photographs(folder, count):
    """Folders of four classes with small images, and the first image's file."""
    images = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), np.uint8)
    for i, image in enumerate(images):
        (folder / str(i % 4)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / str(i % 4) / f"{i:03}.png")
    return folder / "0" / "000.png"


def test_unreadable_examples_are_counted_over_all_starts(config, tmp_path, monkeypatch):
    photographs(tmp_path / "pictures", 20).write_bytes(b"rubbish")
    config.data.update(source=f"folder:{tmp_path}/pictures", max_unreadable=0.5)
    config.data.pp = "random_crop(8, padding=1)|flip_lr|value_range(-1, 1)"
    config.log.every = 1

    def counts(name):
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["train/unreadable"] for line in lines]

    loop.train(config, str(tmp_path / "whole"))
    assert counts("whole") == sorted(counts("whole")) and counts("whole")[-1] >= 2
    monkeypatch.setattr(PreemptionWatch, "reached", lambda self, step: step == 4)
    with pytest.raises(Preempted):
        loop.train(config, str(tmp_path / "parts"))
    monkeypatch.undo()
    loop.train(config, str(tmp_path / "parts"))
    assert counts("parts") == counts("whole")


def test_an_evaluation_does_without_a_damaged_image(config, tmp_path, caplog):
    """Its result is that over the others."""
    photographs(tmp_path / "photos", 24)
    damaged = photographs(tmp_path / "held_out", 6)
    shutil.copytree(tmp_path / "held_out", tmp_path / "readable")
    damaged.write_bytes(damaged.read_bytes()[:60])
    (tmp_path / "readable/0/000.png").unlink()
    config.data.update(source=f"folder:{tmp_path}/photos", pp="resize(8)|value_range(-1, 1)")
    config.eval_every.steps = 2
    with config.unlocked():
        for name in ("held_out", "readable"):
            config.evals[name] = configs.evaluation(
                source=f"folder:{tmp_path}/{name}", split="train"
            )
    metrics = loop.train(config, str(tmp_path / "run"))["metrics"]
    for name in ("top1", "loss", "examples"):
        assert metrics[f"eval/held_out/{name}"] == pytest.approx(metrics[f"eval/readable/{name}"])
    assert metrics["eval/held_out/examples"] == 5
    told = [record.message for record in caplog.records if "000.png" in record.message]
    assert len(told) == 1 and told[0].endswith("; the evaluation does without it")
    found = evaluate_checkpoint(
        str(tmp_path / "run"), source=f"folder:{tmp_path}/held_out", split="train"
    )
    assert found["examples"] == 5


def test_steps_before_an_evaluation_that_fails_are_kept(config, tmp_path):
    photographs(tmp_path / "photos", 24)
    damaged = photographs(tmp_path / "held_out", 30)
    content = damaged.read_bytes()
    config.data.update(source=f"folder:{tmp_path}/photos", pp="resize(8)|value_range(-1, 1)")
    config.data.max_unreadable = 0.0
    config.total.steps = 3
    with config.unlocked():
        config.evals.test = configs.evaluation(source=f"folder:{tmp_path}/held_out", split="train")
    expected = loop.train(config, str(tmp_path / "whole"))["metrics"]
    damaged.write_bytes(content[:60])
    with pytest.raises(InputError, match="000.png.*; the state after step 3 is saved: replace"):
        loop.train(config, str(tmp_path / "run"))
    damaged.write_bytes(content)
    assert (tmp_path / "run" / "checkpoints" / "3").is_dir()
    found = loop.train(config, str(tmp_path / "run"))
    for name in ("eval/test/top1", "eval/test/loss", "eval/test/examples"):
        assert found["metrics"][name] == pytest.approx(expected[name])
