"""timm's config.json: every option gives timm's logits, or is refused by name.

timm_options.json.xz holds logits of timm 1.0.31's own models (torch 2.13.0), one option of the
constructor or the architecture changed at a time. Their parameters are those of `values`, their
input is `images`; so shapes and logits suffice.
"""

import json
import lzma
import zlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from vit_jax import weights
from vit_jax.errors import InputError
from vit_jax.weights.formats.timm.architectures import architecture, architectures

FIXTURES = Path(__file__).with_name("timm_options.json.xz").read_bytes()
CASES = json.loads(lzma.decompress(FIXTURES))["cases"]
# What the models here have. Everything else of timm's has to be refused.
EQUAL = {
    *("plain", "heads", "avg", "map", "avg_fc", "token_fc", "token_prefix", "noprefix"),
    *("notoken", "qk_norm", "init_values", "pos_none", "pos_empty", "no_embed_class", "reg"),
    *("reg_no", "reg3", "dyn", "pad", "drop", "init", "size", "patch", "ratio", "classes"),
    *("headless", "act_gelu", "act_gelu_tanh", "norm_layernorm", "norm_layernormfp32"),
    *("vit_base_patch32_siglip_256", "vit_base_patch32_siglip_gap_256"),
    *("vit_base_patch16_siglip_224", "vit_so400m_patch14_siglip_224", "test_vit", "test_vit2"),
    *("vit_giant_patch14_dinov2", "deit_tiny_distilled_patch16_224", "deit3_small_patch16_224"),
    *("vit_base_patch14_reg4_dinov2", "vit_base_patch16_plus_240"),
    *("flexivit_small",),
}


def values(name, shape):
    """The parameters of the fixtures, by name and shape."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    x = rng.standard_normal(shape).astype(np.float32)
    if len(shape) in (2, 4):
        return x * np.float32(np.prod(shape[1:]) ** -0.5)
    x = x * np.float32(0.3)
    return x + 1 if len(shape) == 1 and not name.endswith("bias") else x


def images(size):
    return np.random.default_rng(1).standard_normal((2, *size, 3)).astype(np.float32)


def save(path, case, **changes):
    save_file({n: values(n, s) for n, s in case["shapes"].items()}, path / "model.safetensors")
    document = dict(architecture=case["architecture"], model_args=case["model_args"])
    document |= dict(pretrained_cfg={}, num_classes=case["model_args"]["num_classes"])
    (path / "config.json").write_text(json.dumps(document | changes))
    return path


@pytest.mark.parametrize("name", CASES)
def test_an_option_gives_timms_logits_or_is_refused(name, tmp_path, run_ours):
    case = CASES[name]
    path = save(tmp_path, case)
    if name not in EQUAL:
        with pytest.raises(InputError) as refusal:
            weights.read(path)
        assert len(str(refusal.value).splitlines()) == 1, refusal.value
        return
    published = weights.read(path)
    logits = run_ours(published, images(published.config.image_size))
    np.testing.assert_allclose(logits[:, :8], case["logits"], atol=1e-4)


@pytest.mark.parametrize("key", ["model_args", "pretrained_cfg", None])
def test_a_field_that_is_not_known_is_refused_by_name(key, tmp_path):
    case = CASES["plain"]
    section = dict(case["model_args"] if key == "model_args" else {}, use_rope=True)
    path = save(tmp_path, case, **({key: section} if key else section))
    with pytest.raises(InputError, match="use_rope is True; this field is not known here"):
        weights.read(path)


def test_bits_output_stride_is_refused():
    from vit_jax.weights.families import FAMILIES, Recognised

    document = dict(architecture="resnetv2_50x1_bit", model_args=dict(output_stride=16))
    family = FAMILIES["timm BiT"]
    found = Recognised("x", "timm BiT", family, {"config.json": dict(document, pretrained_cfg={})})
    with pytest.raises(InputError, match="output_stride is 16; it is not supported, only 32"):
        family.hints(found)


def test_the_table_tells_heads_activations_and_epsilons():
    assert len(architectures()) > 200
    kind, options = architecture("vit_base_patch32_siglip_256.v2_webli")
    assert (kind, options["num_heads"], options["act_layer"]) == ("vit", 12, "gelu_tanh")
    assert architecture("vit_base_patch16_224_in21k") == architecture("vit_base_patch16_224")
    assert architecture("vit_base_patch16_rope_ape_224") is None


def test_attention_pooling_without_json_asks_for_the_activation(tmp_path):
    save(tmp_path, CASES["map"])
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match="does not tell how it computes GELU; give gelu"):
        weights.read(tmp_path, num_heads=4)
    assert weights.read(tmp_path, num_heads=4, gelu="tanh").config.gelu == "tanh"


@pytest.mark.parametrize(
    "index", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 3}}', "no JSON"]
)
def test_a_damaged_shard_index_is_refused(index, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(InputError, match="model.safetensors.index.json"):
        weights.read(tmp_path)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/x.safetensors", "model.index.json"])
def test_a_shard_stays_beside_its_index(name, tmp_path):
    document = json.dumps(dict(weight_map=dict(a=name)))
    (tmp_path / "model.safetensors.index.json").write_text(document)
    with pytest.raises(InputError, match="no file beside it"):
        weights.read(tmp_path)
