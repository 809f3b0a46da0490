"""Exported ONNX programs, run by ONNX Runtime: the same logits, preprocessing and labels inside.

The reference for the network is JAX, for resizing Pillow and TensorFlow.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import traverse_util
from jax import export
from PIL import Image

import vit_jax
from vit_jax import config as configs
from vit_jax.cli.main import main
from vit_jax.errors import InputError
from vit_jax.models import identify, model_config
from vit_jax.weights import Weights, write
from vit_jax.weights.formats import onnx_program
from vit_jax.weights.record import parameter_shapes

pytest.importorskip("jax2onnx", reason="pip install 'vit_jax[onnx]'")
if not hasattr(jax._src.core, "ClosedJaxpr"):
    pytest.skip("jax2onnx does not know this version of JAX", allow_module_level=True)
ort = pytest.importorskip("onnxruntime", reason="pip install 'vit_jax[onnx]'")

ROOT = Path(__file__).parents[2]
PP = "resize((8, 12), antialias=True)|value_range(-1, 1)"
SMALL = dict(width=24, depth=2, mlp_dim=40, num_heads=3, patch_size=4, image_size=(8, 12))
HYBRID = dict(width=24, depth=1, mlp_dim=40, num_heads=3, image_size=(32, 64))
MODELS = {
    "token": ("ViT-B/16", SMALL),
    "gap": ("ViT-B/16", SMALL | dict(head="gap")),
    "map": ("ViT-B/16", SMALL | dict(head="map")),
    "rotary": ("ViT-B/16", SMALL | dict(rotary="centred", posemb="none", gelu="erf")),
    "hybrid": ("R26+ViT-B/32", HYBRID | dict(resnet_stages=(1, 1, 1))),
    "resnet": ("BiT-R50x1", dict(image_size=(32, 40), resnet_stages=(1, 1, 1, 1))),
}


def make_weights(name, options, pp=PP):
    config = model_config(name, num_classes=3, **options)
    rng = np.random.default_rng(0)
    params = {
        path: rng.normal(size=shape).astype(np.float32) * 0.2
        for path, shape in parameter_shapes(config).items()
    }
    name, options = identify(config)
    params = traverse_util.unflatten_dict(params, sep="/")
    return Weights(name=name, options=options, params=params, pp=pp, labels=["a", "b", "c"])


def session(path):
    return session_of(str(path))


def random_images(*shape):
    return np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)


SLOW = ("hybrid", "resnet")


@pytest.mark.parametrize(
    "model",
    [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in MODELS],
)
def test_every_network_computes_the_same(model, tmp_path, run_ours, caplog):
    name, options = MODELS[model]
    height, width = options["image_size"]
    weights = make_weights(name, options, pp="value_range(-1, 1)")
    write(weights, tmp_path / "x.onnx")
    assert not [record for record in caplog.records if record.name.startswith("onnx")]
    run = session(tmp_path / "x.onnx")
    images = random_images(5, height, width)
    expected = run_ours(weights, (images / 127.5 - 1).astype(np.float32))
    scale = max(1.0, np.abs(expected).max())
    for count in (5, 1):
        (found,) = run.run(None, {"images": images[:count]})
        np.testing.assert_allclose(found, expected[:count], atol=1e-4 * scale)


def preprocessing_of(weights):
    """The part of a program before the network, ready to run, and lines about it."""
    import onnx

    values = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([], "none", [values], [values])
    opset = [onnx.helper.make_opsetid("", 21)]
    program = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    before, lines = onnx_program.preprocessing(weights, program, onnx)
    return session_of(before), lines


def session_of(program):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    content = program if isinstance(program, str) else program.SerializeToString()
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    "pp, most",
    [
        ("resize((8, 12), antialias=True)", 1),
        ("resize((8, 12), method='bicubic', antialias=True)", 1),
        ("resize((8, 12))", 1),
        ("resize((8, 12), method='nearest')", 0),
        ("resize_small((10, 15), method='bilinear', antialias=True)|central_crop((8, 12))", 1),
        ("resize_small(13, method='bicubic', antialias=True, truncate=True)"
         "|central_crop((8, 12), nearest=True)", 1),
        ("resize((6, 10))|pad(1)", 1),
        ("resize((10, 14))|random_crop((8, 12))|flip_lr", 1),
        ("naflex(patches=12, patch=4)", 1),
        ("naflex(patches=300, patch=2, method='bicubic')", 1),
    ],
)  # fmt: skip
def test_preprocessing_inside_is_that_of_evaluation(pp, most):
    """The reference is the pipeline of vit_jax.data: Pillow and TensorFlow."""
    from vit_jax.data import parse

    tf = pytest.importorskip("tensorflow")
    weights = make_weights("ViT-B/16", SMALL | dict(depth=1), pp=f"{pp}|value_range(-1, 1)")
    run, _ = preprocessing_of(weights)
    ops = parse(pp).deterministic()
    for shape in ((37, 53), (20, 31), (9, 64)):
        images = random_images(2, *shape)
        words = tf.zeros((1, 2), tf.uint32)
        expected = np.stack([ops.pixels(tf.constant(image), words) for image in images])
        (found,) = run.run(None, {"images": images})
        assert np.abs(found.astype(int) - expected).max() <= most, shape


def test_naflex_takes_images_of_any_size(tmp_path, run_ours):
    from vit_jax.data import parse
    from vit_jax.models.naflex import unpack

    options = SMALL | dict(naflex=12)
    pp = "naflex(patches=12, patch=4)"
    weights = make_weights("ViT-B/16", options, pp=f"{pp}|value_range(-1, 1)")
    write(weights, tmp_path / "x.onnx")
    run = session(tmp_path / "x.onnx")
    for height, width in ((8, 24), (16, 12)):  # copied, not resized: the same bytes
        images = random_images(3, height, width)
        patches = unpack(parse(pp).batched(images, None))
        values = np.asarray(patches.values, np.float32) / 127.5 - 1
        expected = run_ours(weights, type(patches)(values, patches.grid))
        (found,) = run.run(None, {"images": images})
        np.testing.assert_allclose(found, expected, atol=1e-4)
    write(weights, tmp_path / "x.stablehlo")
    program = export.deserialize((tmp_path / "x.stablehlo").read_bytes())
    packed = parse(pp).batched(images, None)
    np.testing.assert_allclose(program.call(packed), expected, atol=1e-4)


def test_preprocessing_that_onnx_lacks_is_said():
    weights = make_weights("ViT-B/16", SMALL | dict(depth=1))
    area = "resize_small((8, 12))|central_crop((8, 12))|value_range(-1, 1)"
    _, lines = preprocessing_of(Weights(**vars(weights) | dict(pp=area)))
    assert any("no area interpolation" in line for line in lines)
    for pp in ("crop_border(1)|resize((8, 12))", "resize((8, 12), method='bicubic')"):
        run, lines = preprocessing_of(Weights(**vars(weights) | dict(pp=pp)))
        assert any("must come prepared, 8 x 12 pixels" in line for line in lines)
        assert run.get_inputs()[0].shape == ["batch", 8, 12, 3]


@pytest.mark.slow
def test_a_run_is_exported_and_the_script_of_the_docs_predicts_with_it(tmp_path, monkeypatch):
    config = configs.default()
    config.model.update(name="ViT-Ti/4", width=32, depth=2, mlp_dim=64, num_heads=2)
    config.data.update(source="digits", split="train[:80%]",
                       pp="resize(16, antialias=True)|value_range(-1, 1)")  # fmt: skip
    config.batch_size = 64
    config.total.steps = 30
    config.optimizer.learning_rate = 0.003
    config.log.tensorboard = False
    vit_jax.train(config, str(tmp_path / "run"))
    assert main(["convert", str(tmp_path / "run"), str(tmp_path / "model.onnx")]) == 0
    model, info = vit_jax.load(tmp_path / "run")
    image = random_images(16, 16)
    Image.fromarray(image).save(tmp_path / "image.png")
    run = session(tmp_path / "model.onnx")
    expected = np.asarray(model((image[None] / 127.5 - 1).astype(np.float32)))
    (found,) = run.run(None, {"images": image[None]})
    np.testing.assert_allclose(found, expected, atol=1e-4)
    about = run.get_modelmeta().custom_metadata_map
    assert json.loads(about["labels"]) == info.labels
    assert about["preprocessing"].endswith("resize(16, antialias=True)|value_range(-1, 1)")
    assert json.loads(about["model"])["name"] == "ViT-Ti/4"

    text = (ROOT / "docs/weights.md").read_text()
    (script,) = re.findall(r"```python\n(import json, sys\n.*?)```", text, re.DOTALL)
    assert len(script.splitlines()) <= 12 and "vit_jax" not in script
    block = "import sys; sys.modules.update(dict.fromkeys(['vit_jax', 'jax', 'flax', 'onnx']))\n"
    script = block + script.replace("sys.argv[1]", "'image.png'")
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    first = done.stdout.splitlines()[0].split()
    odds = np.exp(expected[0] - expected.max())
    assert first[0] == info.labels[int(expected.argmax())]
    assert float(first[1].rstrip("%")) == pytest.approx(100 * odds.max() / odds.sum(), abs=0.1)


def test_what_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    weights = make_weights("ViT-B/16", SMALL | dict(depth=1))
    with monkeypatch.context() as patch:
        patch.setattr(onnx_program, "MAX_BYTES", 100)
        with pytest.raises(InputError, match="an ONNX file holds less than 2 GiB"):
            write(weights, tmp_path / "x.onnx")
    with monkeypatch.context() as patch:
        patch.setattr(onnx_program, "TOLERANCE", 0.0)
        with pytest.raises(InputError, match="ONNX Runtime differ from JAX's"):
            write(weights, tmp_path / "x.onnx")
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(InputError, match=r"pip install 'vit_jax\[onnx\]'"):
        write(weights, tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())
