"""Fine-tuning from weights of other families: the weights say everything but the data."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.weights.huggingface_models import make
from vit_jax.cli.main import main

pytest.importorskip("torch")
pytest.importorskip("transformers", minversion="5.0")

IMAGENET = dict(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])
PROCESSORS = {
    "DINOv3": dict(
        image_processor_type="DINOv3ViTImageProcessorFast",
        size=dict(height=32, width=32),
        resample=2,
        **IMAGENET,
    ),
    "CLIP": dict(
        image_processor_type="CLIPImageProcessor",
        size=dict(shortest_edge=32),
        crop_size=dict(height=32, width=32),
        resample=3,
        do_center_crop=True,
        image_mean=[0.48145466, 0.4578275, 0.40821073],
        image_std=[0.26862954, 0.26130258, 0.27577711],
    ),
    "SigLIP 2": dict(
        image_processor_type="SiglipImageProcessor",
        size=dict(height=32, width=32),
        resample=2,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    ),
    "SigLIP 2, NaFlex": dict(
        image_processor_type="Siglip2ImageProcessor",
        max_num_patches=16,
        patch_size=8,
        resample=2,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    ),
}
MODELS = {
    "DINOv3": ("DINOv3ViTModel", dict(num_register_tokens=4)),
    "CLIP": ("CLIPModel", dict(vision={}, projection_dim=24)),
    "SigLIP 2": ("SiglipModel", dict(vision={})),
    "SigLIP 2, NaFlex": ("Siglip2VisionModel", dict(num_patches=16)),
}
PREPROCESSING = {
    "DINOv3": "resize(32, antialias=True)|normalize",
    "CLIP": "resize_small(32, method='bicubic', antialias=True, truncate=True)|central_crop(32)",
    "SigLIP 2": "resize(32, antialias=True)|value_range(-1, 1)",
    "SigLIP 2, NaFlex": "naflex(patches=16, patch=8)|value_range(-1, 1)",
}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Crops of three photographs in odd sizes, a class each."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    china, flower = load_sample_images().images
    root = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for name, photo in zip(("flower", "china", "coffee"), (flower, china, data.coffee())):
        (root / name).mkdir()
        for i in range(20):
            height, width = rng.integers(60, 180, 2)
            y = rng.integers(0, photo.shape[0] - height)
            x = rng.integers(0, photo.shape[1] - width)
            Image.fromarray(photo[y : y + height, x : x + width]).save(root / name / f"{i}.png")
    return root


def run(capfd, *argv):
    """What a command prints as JSON."""
    capfd.readouterr()
    assert main([*map(str, argv), "--json"]) == 0
    return json.loads(capfd.readouterr().out)


@pytest.mark.parametrize("family", MODELS)
def test_no_option_of_the_model_is_needed(family, photographs, tmp_path, capfd):
    kind, options = MODELS[family]
    make(kind, options).save_pretrained(tmp_path / "weights")
    processor = json.dumps(PROCESSORS[family])
    (tmp_path / "weights" / "preprocessor_config.json").write_text(processor)
    summary = run(
        capfd,
        *("train", "--config=configs/folder.py", f"--workdir={tmp_path / 'run'}"),
        f"--config.init_from={tmp_path / 'weights'}",
        f"--config.data.source=folder:{photographs}",
        *("--config.total.epochs=12", "--config.batch_size=16", "--config.log.tensorboard=False"),
    )
    assert summary["metrics"]["eval/test/top1"] > 0.5  # of three classes
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert PREPROCESSING[family] in config["evals"]["test"]["pp"]
    evaluated = run(capfd, "evaluate", f"--checkpoint={tmp_path / 'run'}")
    assert evaluated["top1"] == pytest.approx(summary["metrics"]["eval/test/top1"])
    paths = [photographs / name / "3.png" for name in ("china", "coffee", "flower")]
    found = run(capfd, "predict", f"--checkpoint={tmp_path / 'run'}", *paths)
    labels = {each["label"] for each in found[0]["top"]}
    assert len(found) == 3 and labels == {"china", "coffee", "flower"}
