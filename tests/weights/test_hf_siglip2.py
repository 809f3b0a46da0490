"""SigLIP 2 for images of any size against transformers, every parameter drawn at random."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import models, weights
from vit_jax.data import parse
from vit_jax.errors import InputError
from vit_jax.models.naflex import model_inputs, unpack

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.0")

PATCH, TABLE, LENGTH = 8, 16, 24
TOWER = dict(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=48,
    patch_size=PATCH,
    num_patches=TABLE,
)
TEXT = dict(
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    vocab_size=50,
    projection_size=32,
)
PROCESSOR = dict(
    image_processor_type="Siglip2ImageProcessor",
    max_num_patches=LENGTH,
    patch_size=PATCH,
    resample=2,
    do_resize=True,
    image_mean=[0.5, 0.5, 0.5],
    image_std=[0.5, 0.5, 0.5],
)


def save(kind, folder, **options):
    cls = getattr(transformers, kind)
    if kind == "Siglip2VisionModel":
        config = transformers.Siglip2VisionConfig(**TOWER | options)
    else:
        config = transformers.Siglip2Config(vision_config=TOWER, text_config=TEXT, **options)
    torch.manual_seed(0)
    model = cls(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = parameter[0].numel() ** -0.5 if parameter.ndim == 2 else 0.3
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
            if "norm" in name and "weight" in name:
                parameter.add_(1.0)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return model


def photographs():
    """Crops of odd sizes from a photograph."""
    data = pytest.importorskip("skimage.data")
    image = data.astronaut()
    return [image[:301, :423], image[100:163, :511], image[:47, 10:21], image[:128, :128]]


def packed(found):
    pp = parse(found.pp)
    return np.concatenate([pp.batched(image[None], None) for image in photographs()])


def inputs_of(batch):
    """The same images as transformers wants them."""
    patches = unpack(jnp.asarray(batch))
    values = np.asarray(patches.values, np.float32) / 127.5 - 1
    mask = np.asarray(patches.mask)
    values = values.reshape(*values.shape[:2], -1) * mask[..., None]
    return dict(
        pixel_values=torch.from_numpy(values),
        pixel_attention_mask=torch.from_numpy(mask.astype(np.int32)),
        spatial_shapes=torch.from_numpy(np.array(patches.grid, np.int64)),
    )


def run(found, batch):
    graphdef, _ = models.abstract(lambda rngs: models.build_model(found.config, rngs))
    model = models.merge(graphdef, found.params)
    inputs = model_inputs(jnp.asarray(batch), found.config, (0.5,) * 3, (0.5,) * 3)
    return np.asarray(model(inputs))


@pytest.mark.parametrize(
    "kind, options",
    [
        ("Siglip2VisionModel", {}),
        ("Siglip2Model", {}),
        ("Siglip2ForImageClassification", dict(num_labels=5)),
    ],
)
def test_images_of_odd_sizes_give_what_transformers_gives(kind, options, tmp_path):
    model = save(kind, tmp_path, **options)
    found = weights.read(tmp_path)
    assert found.config.naflex == LENGTH and found.config.grid == (4, 4)
    assert found.pp == "naflex(patches=24, patch=8)|value_range(-1, 1)"
    batch = packed(found)
    given = inputs_of(batch)
    with torch.no_grad():
        if kind == "Siglip2ForImageClassification":
            expected = model(**given).logits
        else:
            tower = model if kind == "Siglip2VisionModel" else model.vision_model
            expected = tower(**given).pooler_output
    result = run(found, batch)
    np.testing.assert_allclose(result, expected, atol=1e-4 * float(expected.abs().max()), rtol=0)


def test_the_processor_of_transformers_gives_the_same_patches(tmp_path):
    module = pytest.importorskip("transformers.models.siglip2.image_processing_pil_siglip2")
    save("Siglip2VisionModel", tmp_path)
    found = weights.read(tmp_path)
    options = {key: value for key, value in PROCESSOR.items() if key != "image_processor_type"}
    processor = module.Siglip2ImageProcessorPil(**options)
    theirs = processor(photographs(), return_tensors="np")
    ours = inputs_of(packed(found))
    np.testing.assert_array_equal(ours["spatial_shapes"], theirs["spatial_shapes"])
    np.testing.assert_array_equal(ours["pixel_attention_mask"], theirs["pixel_attention_mask"])
    mask = np.asarray(theirs["pixel_attention_mask"])[..., None]
    difference = (ours["pixel_values"].numpy() - theirs["pixel_values"]) * mask * 127.5
    assert np.abs(difference).max() < 0.01  # levels of 255


@pytest.mark.parametrize("kind", ["Siglip2VisionModel", "Siglip2ForImageClassification"])
def test_what_was_read_is_written_again_bit_for_bit(kind, tmp_path):
    from safetensors.numpy import load_file

    save(kind, tmp_path / "a", **({"num_labels": 3} if "Class" in kind else {}))
    weights.write(weights.read(tmp_path / "a"), tmp_path / "b")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert {name for name in before if not name.startswith("text")} == after.keys()
    for name, array in after.items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    again, info = getattr(transformers, kind).from_pretrained(
        tmp_path / "b", output_loading_info=True
    )
    assert not any(info.values()), info
    assert weights.read(tmp_path / "b").config == weights.read(tmp_path / "a").config


def test_a_processor_that_does_something_else_is_refused(tmp_path):
    save("Siglip2VisionModel", tmp_path)
    for changed in (dict(do_resize=False), dict(patch_size=4), dict(resample=1), dict(crop=3)):
        content = json.dumps(PROCESSOR | changed)
        (tmp_path / "preprocessor_config.json").write_text(content)
        with pytest.raises(InputError, match=f"preprocessor_config.json: {next(iter(changed))}"):
            weights.read(tmp_path)
