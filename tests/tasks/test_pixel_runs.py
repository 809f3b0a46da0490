"""Runs with iGPT's objectives on digits of scikit-learn: 8 x 8 pixels, 17 greys."""

import json
import math
import shutil

import jax
import numpy as np
import pytest
from sklearn.cluster import MiniBatchKMeans
from sklearn.datasets import load_digits

import vit_jax
from vit_jax import config as configs
from vit_jax import models
from vit_jax.checkpoint.stored import latest_checkpoint
from vit_jax.cli.main import main
from vit_jax.config_files import load_config
from vit_jax.errors import InputError
from vit_jax.models import model_config
from vit_jax.train.run import Dataset, configure_model
from vit_jax.weights import Weights, write
from vit_jax.weights.palette import read_palette


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A pre-trained model in a workdir, and the config that made it."""
    config = configs.default()
    config.task = "pixels"
    config.model.update(name="iGPT-S", width=32, depth=2, mlp_dim=64, num_heads=4, palette=8)
    config.data.source, config.data.split = "digits", "train[:80%]"
    config.data.pp = "value_range(-1, 1)"
    config.batch_size = 64
    config.total.steps = 12
    config.checkpoint.every.steps = 6
    config.optimizer.update(learning_rate=3e-3, weight_decay=0.0, ema_decay=0.9)
    config.parallel.cpu_devices = 8
    with config.unlocked():
        config.evals.test = configs.evaluation(split="train[80%:]")
    folder = tmp_path_factory.mktemp("digits")
    summary = vit_jax.train(config, str(folder / "run"))
    return folder / "run", config, summary


def test_a_run_learns_the_pixels_of_a_data_set(digits):
    workdir, _, summary = digits
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    found = lines[-1]
    assert found["eval/test/bits_per_dim"] < 0.9 * math.log2(8) / 3
    assert found["eval/test/bits_per_dim"] == pytest.approx(
        found["eval/test/loss"] / math.log(8), rel=1e-5
    )
    assert summary


def test_the_palette_is_that_of_kmeans_on_the_training_images(digits):
    model, _ = vit_jax.load(str(digits[0]))
    palette = np.asarray(model.embedding.palette[...])
    assert palette.shape == (8, 3)
    np.testing.assert_allclose(palette, palette[:, :1].repeat(3, 1), atol=1e-5)  # greys
    grey = load_digits().images.astype(np.float32) / 16 * 2 - 1
    pixels = grey.reshape(-1, 1).repeat(3, 1)

    def inertia(centres):
        return np.square(pixels[:, None] - centres).sum(-1).min(1).mean()

    best = MiniBatchKMeans(8, n_init=3, random_state=1).fit(pixels).cluster_centers_
    assert inertia(palette) < 1.3 * inertia(best)
    assert inertia(palette) < 0.2 * inertia(np.linspace(-1, 1, 3)[:, None].repeat(3, 1))


def test_an_interrupted_run_goes_on_exactly(digits, tmp_path):
    workdir, config, _ = digits
    shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "12")
    (tmp_path / "run" / "summary.json").unlink()
    vit_jax.train(config, str(tmp_path / "run"))
    before, after = (vit_jax.load(str(path))[0] for path in (workdir, tmp_path / "run"))
    for x, y in zip(*(jax.tree.leaves(vit_jax.models.split(m)[1]) for m in (before, after))):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("task", ["joint", "classify"])
def test_fine_tuning_takes_the_pixels_over(task, digits, tmp_path, capsys):
    workdir, config, _ = digits
    config = config.copy_and_resolve_references()
    config.task, config.init_from = task, str(workdir)
    config.total.steps = 4
    vit_jax.train(config, str(tmp_path / "run"))
    before, after = (vit_jax.load(str(path))[0] for path in (workdir, tmp_path / "run"))
    np.testing.assert_array_equal(before.embedding.palette[...], after.embedding.palette[...])
    assert after.config.num_classes == 10 and after.config.color_head
    change = np.abs(after.color_head.kernel[...] - before.color_head.kernel[...]).max()
    assert (change > 1e-4) == (task == "joint")
    assert main(["evaluate", f"--checkpoint={tmp_path / 'run'}", "--json"]) == 0
    assert 0 <= json.loads(capsys.readouterr().out)["top1"] <= 1


def test_evaluate_prints_bits_per_dimension(digits, capsys):
    workdir, *_ = digits
    assert main(["evaluate", f"--checkpoint={workdir}", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bits_per_dim"] == pytest.approx(found["loss"] / math.log(8), rel=1e-5)


def test_weights_without_a_run_are_evaluated_on_pixels(digits, tmp_path, capsys):
    workdir, _, _ = digits
    weights = str(tmp_path / "pixels.npz")
    assert main(["convert", str(workdir), weights]) == 0
    own = ["--source=digits", "--split=train[80%:]", "--json"]
    found = []
    for checkpoint in (str(workdir), weights):
        capsys.readouterr()
        assert main(["evaluate", f"--checkpoint={checkpoint}", *own]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[1]["bits_per_dim"] == pytest.approx(found[0]["bits_per_dim"], rel=1e-5)


def test_features_alone_have_nothing_to_evaluate(tmp_path, capsys):
    weights = tmp_path / "features.npz"
    options = dict(width=8, depth=1, num_heads=1, mlp_dim=8, image_size=16, num_classes=0)
    _, params = models.split(vit_jax.create_model("ViT-Ti/16", **options))
    write(Weights(name="ViT-Ti/16", options=options, params=params, pp="resize(16)"), weights)
    command = ["evaluate", f"--checkpoint={weights}", "--source=digits", "--split=train[80%:]"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "has no classes to evaluate; `vit_jax probe`" in error and "matched" not in error


@pytest.mark.parametrize(
    ("palette", "message"),
    [
        (np.zeros((7, 3)), r"shape \(7, 3\), config.model.palette is 8"),
        (np.full((8, 3), 127.0), "from -1 to 1"),
        (np.arange(8)[:, None].repeat(3, 1) // 2 / 8, "holds colours twice: of 8 only 4 differ"),
        (None, "No such file"),
        ("text", "no table of colours"),
    ],
)
def test_palettes_that_do_not_fit_are_refused(palette, message, digits, tmp_path):
    _, config, _ = digits
    config = config.copy_and_resolve_references()
    path = tmp_path / "palette.npy"
    if isinstance(palette, str):
        path.write_text(palette)
    elif palette is not None:
        np.save(path, palette)
    config.init_palette = str(path)
    with pytest.raises(InputError, match=message):
        vit_jax.train(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def _archive(path):
    np.savez(path, np.zeros((8, 3)))


def _terabytes(path):
    np.save(path, np.zeros((8, 3)))
    header = path.read_bytes()
    path.write_bytes(
        header.replace(b"(8, 3), ", b"(9999999999999, 3), ").replace(b" " * 12, b"", 1)
    )


def _nested(path):
    path.write_text("[" * 200_000)


def _complex(path):
    np.save(path, np.zeros((8, 3), complex))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("palette.npz", _archive),
        ("palette.npy", _terabytes),
        ("palette.json", _nested),
        ("palette.npy", _complex),
    ],
)
def test_files_that_are_no_palette_are_refused(name, write, tmp_path):
    write(tmp_path / name)
    with pytest.raises(InputError, match=f"{name}: no table of colours"):
        read_palette(tmp_path / name, 8)


def test_a_model_without_labels_is_written_and_read(digits, tmp_path, capsys):
    """The images have ten classes, the model none."""
    workdir, _, _ = digits
    assert main(["convert", str(workdir), str(tmp_path / "pixels.npz")]) == 0
    written = json.loads((tmp_path / "pixels.npz.json").read_text())
    assert written["labels"] == [] and written["model"]["num_classes"] == 0
    ours, theirs = (vit_jax.load(str(path))[0] for path in (workdir, tmp_path / "pixels.npz"))
    images = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)
    np.testing.assert_array_equal(ours(images), theirs(images))


def test_more_colours_than_the_images_have_are_refused(digits, tmp_path):
    _, config, _ = digits
    config = config.copy_and_resolve_references()
    config.model.palette = 512
    with pytest.raises(InputError, match="17 different colours; set it to 17 or less"):
        vit_jax.train(config, str(tmp_path / "run"))


def test_a_palette_of_a_file_is_taken(digits, tmp_path):
    _, config, _ = digits
    config = config.copy_and_resolve_references()
    own = np.linspace(-1, 1, 8)[:, None].repeat(3, 1)
    np.save(tmp_path / "palette.npy", own)
    config.init_palette, config.total.steps = str(tmp_path / "palette.npy"), 1
    vit_jax.train(config, str(tmp_path / "run"))
    model, _ = vit_jax.load(str(tmp_path / "run"))
    np.testing.assert_allclose(model.embedding.palette[...], own, atol=1e-6)
    # A resumed run has its palette: the file may be gone.
    (tmp_path / "palette.npy").unlink()
    config.total.steps = 2
    vit_jax.train(config, str(tmp_path / "run"))
    assert latest_checkpoint(tmp_path / "run").name == "2"


def test_the_small_config_trains_on_images_of_that_kind(tmp_path):
    """configs/igpt.py on a few images in the files of Fashion-MNIST."""
    import gzip

    rng = np.random.default_rng(0)
    for prefix, count in (("train", 60), ("t10k", 10)):
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        shape = np.array([0x803, count, 28, 28], ">i4").tobytes()
        labels = np.array([0x801, count], ">i4").tobytes() + bytes(i % 10 for i in range(count))
        for kind, content in (("images-idx3", shape + images.tobytes()), ("labels-idx1", labels)):
            path = tmp_path / f"{prefix}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(content))
    config = load_config(f"configs/igpt.py:fashion_mnist,{tmp_path}")
    config.data.split = config.evals.held_out.split = "train"
    config.total.steps, config.optimizer.warmup.steps, config.batch_size = 2, 1, 8
    config.eval_every.steps, config.evals.held_out.batch_size = 2, 60
    summary = vit_jax.train(config, str(tmp_path / "run"))
    # Noise cannot be predicted: hardly less than the entropy of 16 colours.
    assert summary["metrics"]["eval/held_out/bits_per_dim"] == pytest.approx(4 / 3, abs=0.15)


def test_fine_tuning_on_cifar10_starts_from_any_size_of_igpt():
    config = load_config("configs/igpt.py:cifar10")
    start = model_config("iGPT-M", num_classes=0, image_size=48)
    dataset = Dataset(50_000, 10, (32, 32), (0.5,) * 3, (0.5,) * 3)
    model = configure_model(config, dataset, start=start)
    assert (model.width, model.num_classes, model.image_size) == (1024, 10, (32, 32))
    assert model.color_head and model.autoregressive
