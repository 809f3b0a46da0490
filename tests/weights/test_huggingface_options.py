"""config.json of transformers, one field changed at a time: its own logits, or refused by name.

The reference is transformers itself, run here on the model that it built from the changed
configuration, all parameters random. Every field of the configurations is changed.
"""

import numpy as np
import pytest

from vit_jax.errors import InputError
from vit_jax.weights import read

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SMALL = dict(
    hidden_size=24, num_hidden_layers=2, num_attention_heads=3, image_size=16, patch_size=4
)
VIT = dict(SMALL, intermediate_size=40, num_labels=5, pooler_output_size=24)
DINOV2 = dict(SMALL, mlp_ratio=2, num_labels=5)
KINDS = {
    "ViTModel": ("ViTConfig", VIT),
    "ViTForImageClassification": ("ViTConfig", VIT),
    "DeiTForImageClassificationWithTeacher": ("DeiTConfig", VIT),
    "Dinov2ForImageClassification": ("Dinov2Config", DINOV2),
    "Dinov2WithRegistersForImageClassification": (
        "Dinov2WithRegistersConfig",
        dict(DINOV2, num_register_tokens=2),
    ),
}
ACTIVATIONS = [
    *("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_python", "gelu_10", "quick_gelu"),
    *("relu", "silu", "mish", "tanh", "gelu_accurate", "laplace", "relu2"),
]
VALUES = dict(
    hidden_size=[36, 48],
    num_hidden_layers=[1, 3],
    num_attention_heads=[1, 2, 6, 12],
    intermediate_size=[24, 56],
    mlp_ratio=[1, 3],
    hidden_act=ACTIVATIONS,
    hidden_dropout_prob=[0.3],
    attention_probs_dropout_prob=[0.3],
    drop_path_rate=[0.3],
    initializer_range=[0.3],
    layer_norm_eps=[1e-6, 1e-2, 0.5, 0.0],
    layerscale_value=[0.1],
    image_size=[8, 24, [16, 24]],
    patch_size=[2, 8, [4, 8]],
    num_channels=[1, 4],
    qkv_bias=[False],
    encoder_stride=[8],
    pooler_output_size=[16, 40],
    pooler_act=["relu", "gelu", "linear"],
    use_swiglu_ffn=[True],
    use_mask_token=[False],
    num_register_tokens=[0, 1, 3],
    apply_layernorm=[False],
    reshape_hidden_states=[False],
    stage_names=[["stem", "a", "b"]],
    out_features=[["stage1"]],
    out_indices=[[1]],
    num_labels=[1, 7],
    chunk_size_feed_forward=[1],
    is_encoder_decoder=[True],
    output_hidden_states=[True],
    problem_type=["multi_label_classification"],
    # These name or store what they hold; the file's bytes are float32 whatever dtype says.
    **dict.fromkeys(("transformers_version", "architectures", "dtype", "id2label", "label2id"), []),
    **dict.fromkeys(("_name_or_path", "model_type", "output_attentions", "return_dict"), []),
)
# What this package lacks; everything else has to be read.
REFUSED = {
    *(("hidden_act", act) for act in ("gelu_10", "relu", "silu", "mish", "tanh")),
    *(("hidden_act", act) for act in ("laplace", "relu2")),
    *(("num_channels", count) for count in (1, 4)),
    *(("pooler_act", act) for act in ("relu", "gelu", "linear")),
}
CHANGES = [
    (kind, field, value)
    for kind, (config, options) in KINDS.items()
    for field in [*getattr(transformers, config)(**options).to_dict(), "num_labels"]
    for value in VALUES[field]
    # The base model alone has a pooler; else it is the network of the classifier.
    if kind != "ViTModel" or field.startswith("pooler")
]


def output(model, images):
    with torch.no_grad():
        try:
            out = model(torch.from_numpy(images).permute(0, 3, 1, 2), return_dict=True)
        except RuntimeError as error:  # of DINOv2 with images that are not square
            pytest.skip(f"transformers cannot: {error}")
    return (out.logits if hasattr(out, "logits") else out.pooler_output).numpy()


def saved(tmp_path, randomise, kind, **changes):
    config, options = KINDS[kind]
    config = getattr(transformers, config)(**{**options, **changes})
    model = randomise(getattr(transformers, kind)(config))
    model.save_pretrained(tmp_path)
    return model


@pytest.mark.parametrize("kind, field, value", CHANGES)
def test_a_changed_field_gives_the_same_logits_or_is_refused(
    kind, field, value, tmp_path, randomise, run_ours
):
    try:
        model = saved(tmp_path, randomise, kind, **{field: value})
    except ValueError as error:
        pytest.skip(f"transformers has no such model: {error}")
    if (field, value if not isinstance(value, list) else None) in REFUSED:
        with pytest.raises(InputError, match=field) as refusal:
            read(tmp_path)
        assert "\n" not in str(refusal.value)
        return
    found = read(tmp_path, num_heads=None)
    images = np.random.default_rng(1).normal(size=(2, *found.config.image_size, 3))
    images = images.astype(np.float32)
    np.testing.assert_allclose(run_ours(found, images), output(model, images), atol=1e-4)
    if field == "image_size":
        asked = (value, value) if isinstance(value, int) else tuple(value)
        assert found.config.image_size == asked


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_that_transformers_will_add_is_refused(kind, tmp_path, randomise):
    saved(tmp_path, randomise, kind, rope_theta=100.0)
    with pytest.raises(InputError, match="rope_theta"):
        read(tmp_path)
