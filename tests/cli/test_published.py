"""A model of transformers' all the way: converted and back, evaluated, fine-tuned, asked."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from vit_jax.checkpoint import load
from vit_jax.cli.main import main
from vit_jax.evaluate.predict import predict

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LABELS = ["flower", "china", "coffee"]  # not by alphabet, as folders are
SHAPE = dict(
    hidden_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=96,
    image_size=32,
    patch_size=8,
)
# The same in our words; transformers computes GELU and epsilon in its own way.
NORMALIZE = "normalize(mean=(0.3, 0.4, 0.5), std=(0.2, 0.25, 0.3))"
EVALUATION = f"decode|resize(32, method='bicubic', antialias=True)|{NORMALIZE}"
MODEL = [
    *("--config.model.name=ViT-Ti/8", "--config.model.width=48", "--config.model.depth=2"),
    *("--config.model.mlp_dim=96", "--config.model.num_heads=4"),
    *("--config.model.gelu=erf", "--config.model.norm_eps=1e-12"),
]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Crops of three photographs, a class each, as JPEG files."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    china, flower = load_sample_images().images
    root = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for name, photo in zip(LABELS, (flower, china, data.coffee())):
        (root / name).mkdir()
        for i in range(8):
            y, x = rng.integers(0, photo.shape[0] - 200), rng.integers(0, photo.shape[1] - 300)
            Image.fromarray(photo[y : y + 200, x : x + 300]).save(root / name / f"{i}.jpg")
    return root


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A directory that transformers wrote, and (files) -> its probabilities."""
    folder = tmp_path_factory.mktemp("theirs")
    config = transformers.ViTConfig(
        **SHAPE, id2label=dict(enumerate(LABELS)), label2id={n: i for i, n in enumerate(LABELS)}
    )
    torch.manual_seed(0)
    model = transformers.ViTForImageClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    processor = transformers.ViTImageProcessor(
        size=32, resample=3, image_mean=[0.3, 0.4, 0.5], image_std=[0.2, 0.25, 0.3]
    )
    processor.save_pretrained(folder)

    def probabilities(files):
        images = [Image.open(file).convert("RGB") for file in files]
        with torch.no_grad():
            return model(**processor(images, return_tensors="pt")).logits.softmax(-1).numpy()

    return folder, probabilities


def run(capfd, *argv):
    """What a command prints as JSON."""
    assert main([*map(str, argv), "--json"]) == 0
    return json.loads(capfd.readouterr().out)


def test_convert_to_npz_and_back_bit_for_bit(theirs, tmp_path, capfd):
    folder, _ = theirs
    report = run(capfd, "convert", folder, tmp_path / "x.npz")["report"]
    assert report[0].endswith("Hugging Face ViT, ViT-Wee/8, 40 tensors loaded")
    run(capfd, "convert", tmp_path / "x.npz", tmp_path / "back")
    ours, given = ((f / "model.safetensors").read_bytes() for f in (tmp_path / "back", folder))
    assert ours == given
    kept = json.loads((tmp_path / "x.npz.json").read_text())["report"]
    assert kept == report[: len(kept)]
    assert json.loads((tmp_path / "back" / "vit_jax.json").read_text())["report"]


def test_predict_and_evaluate_prepare_images_as_transformers(theirs, photographs, capfd):
    folder, probabilities = theirs
    files = sorted(photographs.glob("*/*.jpg"))
    expected = probabilities(files)
    results = run(capfd, "predict", f"--checkpoint={folder}", *files, "--topk=3")
    for result, row in zip(results, expected, strict=True):
        for top in result["top"]:
            assert top["label"] == LABELS[top["index"]]
            # Bytes after resizing differ by a grey level here and there.
            assert top["probability"] == pytest.approx(row[top["index"]], abs=0.02)
    source = f"--source=folder:{photographs}"
    result = run(capfd, "evaluate", f"--checkpoint={folder}", source, "--split=train")
    truth = [LABELS.index(file.parent.name) for file in files]
    chances = expected[np.arange(len(files)), truth]
    assert result["examples"] == len(files)
    assert result["top1"] == np.mean(expected.argmax(-1) == truth)
    assert result["loss"] == pytest.approx(-np.log(chances).mean(), rel=0.01)


@pytest.mark.slow
def test_fine_tuning_at_another_resolution_through_every_command(
    theirs, photographs, tmp_path, capfd
):
    folder, _ = theirs
    workdir = tmp_path / "run"
    summary = run(
        capfd, "train", "--config=configs/quickstart.py:finetune", f"--workdir={workdir}",
        f"--config.init_from={folder}", *MODEL, f"--config.data.source=folder:{photographs}",
        "--config.data.pp=decode|inception_crop(48)|normalize(mean=(0.3, 0.4, 0.5), std=0.25)",
        "--config.evals.test.pp=decode|resize(48)|normalize(mean=(0.3, 0.4, 0.5), std=0.25)",
        "--config.batch_size=8", "--config.total.epochs=None", "--config.total.steps=6",
        "--config.optimizer.warmup.steps=1", "--config.log.tensorboard=False",
    )  # fmt: skip
    kept = (workdir / "init_from.txt").read_text().splitlines()
    assert kept[0] == f"{folder}: Hugging Face ViT, ViT-Wee/8, 40 tensors loaded"
    assert "resized: posemb/embedding (1, 17, 48) -> (1, 37, 48), bilinear_align_corners" in kept
    assert "left out: head/kernel" in kept
    assert "starts afresh: head/kernel (48, 3)" in kept
    assert any(line.startswith("note: the weights know images prepared by") for line in kept)

    result = run(capfd, "evaluate", f"--checkpoint={workdir}")
    assert result["top1"] == pytest.approx(summary["metrics"]["eval/test/top1"])
    assert result["loss"] == pytest.approx(summary["metrics"]["eval/test/loss"], rel=1e-5)
    model, info = load(workdir)
    assert model.config.image_size == (48, 48) and info.labels == sorted(LABELS)
    assert model.config.gelu == "erf" and model.config.norm_eps == 1e-12
    photo = photographs / "coffee" / "0.jpg"
    (shown,) = run(capfd, "predict", f"--checkpoint={workdir}", photo)
    assert shown["top"] == predict(str(workdir), [str(photo)])[0]["top"]
    assert {top["label"] for top in shown["top"]} == set(LABELS)


def test_fine_tuning_on_a_folder_takes_two_overrides(theirs, photographs, tmp_path, capfd):
    """Model, its options, size and preprocessing come from the weights, also when it goes on."""
    folder, _ = theirs
    moved = tmp_path / "weights"
    shutil.copytree(folder, moved)
    workdir = tmp_path / "run"
    words = [
        *("train", "--config=configs/folder.py", f"--workdir={workdir}"),
        *(f"--config.init_from={moved}", f"--config.data.source=folder:{photographs}"),
        *("--config.log.tensorboard=False", "--config.total.epochs=2"),
    ]
    summary = run(capfd, *words)
    stored = json.loads((workdir / "config.json").read_text())
    training = f"decode|inception_crop(32)|flip_lr|{NORMALIZE}"
    assert stored["data"]["pp"] == training
    assert stored["evals"]["test"]["pp"] == EVALUATION
    model, info = load(workdir)
    stated = (model.config.width, model.config.gelu, model.config.norm_eps)
    assert stated == (SHAPE["hidden_size"], "erf", 1e-12)
    assert info.labels == sorted(LABELS) and model.config.num_heads == 4
    result = run(capfd, "evaluate", f"--checkpoint={workdir}")
    assert result["loss"] == pytest.approx(summary["metrics"]["eval/test/loss"], rel=1e-5)

    shutil.rmtree(moved)
    longer = run(capfd, *words[:-1], "--config.total.epochs=3")
    assert longer["steps"] > summary["steps"]
    assert json.loads((workdir / "config.json").read_text())["data"]["pp"] == training


def test_another_size_is_enough_to_ask_for_and_contradictions_are_refused(
    theirs, photographs, tmp_path, capfd
):
    folder, _ = theirs
    words = [
        *("train", "--config=configs/folder.py", f"--config.init_from={folder}"),
        *(f"--config.data.source=folder:{photographs}", "--config.log.tensorboard=False"),
        "--config.total.epochs=1",
    ]
    run(capfd, *words, f"--workdir={tmp_path}/run", "--config.model.image_size=48")
    model, info = load(tmp_path / "run")
    assert model.config.image_size == (48, 48)
    assert info.pp == EVALUATION.replace("32", "48")
    assert main([*words, f"--workdir={tmp_path}/other", "--config.model.gelu=tanh"]) == 2
    assert "gelu is 'erf' in the weights" in capfd.readouterr().err
