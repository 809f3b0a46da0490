"""timm's config.json: every option gives timm's logits, or is refused by name.

options.json.xz holds logits of timm 1.0.31's own models (torch 2.13.0), one option of the
constructor or the architecture changed at a time, most at a second image size too; write_options.py
wrote it. Their parameters and input are those of reference.py, so shapes and logits suffice.
"""

import dataclasses
import json
import lzma
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file, save_file

from vit_jax import models, weights
from vit_jax.errors import InputError
from vit_jax.weights.formats.timm.architectures import architecture, architectures

HERE = Path(__file__).parent
DOCUMENT = json.loads(lzma.decompress((HERE / "options.json.xz").read_bytes()))
CASES, OTHER_SIZE = DOCUMENT["cases"], tuple(DOCUMENT["other_size"])
reference = runpy.run_path(str(HERE / "reference.py"))
values, images = reference["values"], reference["images"]
# Everything else gives timm's logits.
REFUSED = {
    "none": "global_pool is ''",
    "avgmax": "global_pool is 'avgmax'",
    "max": "global_pool is 'max'",
    "prr": "global_pool is 'prr'",
    "map_fc": "fc_norm is True",
    "chans": "in_chans is 1",
    "chans5": "in_chans is 5",
    "act_relu": "act_layer is 'relu'",
    "act_silu": "act_layer is 'silu'",
    "act_mish": "act_layer is 'mish'",
    "norm_simplenorm": "norm_layer is 'simplenorm'",
    "embed_other": "embed_norm_layer is 'rmsnorm'; it differs from norm_layer",
    "attn": "attn_layer is 'diff'",
    "vit_dwee_patch16_reg1_gap_256": "attn_layer is 'diff'",
    "vit_dpwee_patch16_reg1_gap_256": "block_fn is 'DiffParallelScalingBlock'",
    "parallel_no_proj": "block_fn is 'ParallelScalingBlock'; it needs proj_bias",
    "distilled_fc": "fc_norm is True",
    "eva_max": "global_pool is 'max'",
    "eva_two_norms": "holds norm.bias twice: fc_norm.bias and norm.bias",
    "eva_groups": "num_kv_heads is 2",
    "eva_sapiens": "attn_only_layer_scale is True",
    "eva_attention_scale": "attn_only_layer_scale is True",
    "eva_mrope": "rope_type is 'mrope'",
    "eva_centred_xy": "rope_type is 'dinov3'; only",
    "eva_centred_offset": "rope_type is 'dinov3'; only",
    "beit_both": "use_shared_rel_pos_bias is True; beside use_rel_pos_bias",
    "relpos_swin": "rel_pos_type is 'mlp-swin'",
}


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
    if name in REFUSED:
        with pytest.raises(InputError, match=re.escape(REFUSED[name])) as refusal:
            weights.read(path)
        assert len(str(refusal.value).splitlines()) == 1, refusal.value
        return
    published = weights.read(path)
    assert_equal(run_ours(published, images(published.config.image_size)), case["logits"])
    if "other" in case:
        other = weights.read(path, image_size=OTHER_SIZE, resample="bicubic_antialias")
        assert_equal(run_ours(other, images(OTHER_SIZE)), case["other"])


def assert_equal(ours, theirs):
    theirs = np.array(theirs)
    error = np.abs(ours[:, :8] - theirs).max()
    assert error <= 1e-4 * np.abs(theirs).max(), error


# Written with queries, keys and values, or gate and value, in one tensor instead of several, or
# with a norm of all tokens instead of the class token's alone.
OTHER_NAMES = {
    *("token_fc", "eva_token"),
    *("eva02_base_patch14_224", "eva02_base_patch16_clip_224", "eva_unfused", "eva_rope_unfused"),
    *("vit_7b_patch16_dinov3", "vit_small_plus_patch16_dinov3", "eva_align", "split_norm"),
}


@pytest.mark.parametrize("name", sorted(CASES.keys() - REFUSED.keys()))
def test_what_was_read_is_written_again(name, tmp_path):
    """Bit for bit; and config.json says the same without our key in it."""
    (tmp_path / "first").mkdir()
    first = weights.read(save(tmp_path / "first", CASES[name]))
    weights.write(first, tmp_path / "second", format="timm")
    document = json.loads((tmp_path / "second" / "config.json").read_text())
    assert architecture(document["architecture"])
    assert document["model_args"]["depth"] == 2
    for key in ("vit_jax", None):
        second = weights.read(tmp_path / "second")
        assert second.config == first.config
        ours, again = (traverse_util.flatten_dict(each.params) for each in (first, second))
        assert ours.keys() == again.keys()
        for path, array in ours.items():
            np.testing.assert_array_equal(array, again[path], err_msg=str(path))
        document.pop(key, None)
        (tmp_path / "second" / "config.json").write_text(json.dumps(document))
    written = set(load_file(tmp_path / "second" / "model.safetensors"))
    if name not in OTHER_NAMES:
        assert written == set(CASES[name]["shapes"])


@pytest.mark.parametrize("key", ["model_args", "pretrained_cfg", None])
def test_a_field_that_is_not_known_is_refused_by_name(key, tmp_path):
    case = CASES["plain"]
    section = dict(case["model_args"] if key == "model_args" else {}, use_rope=True)
    path = save(tmp_path, case, **({key: section} if key else section))
    with pytest.raises(InputError, match="use_rope is True; this field is not known here"):
        weights.read(path)


@pytest.mark.parametrize(
    "name, reason",
    [
        ("vit_base_patch16_clip_224", "norm_pre"),
        ("aimv2_large_patch14_224", "patch_embed.norm"),
        ("vit_base_patch16_xp_224", "in_norm"),
        ("beit3_base_patch16_224", "attn.norm"),
        ("final_norm", "no norm.weight"),
        ("eva02_tiny_patch14_224", "q_bias"),
        ("eva02_base_patch14_224", "mlp.norm"),
        ("vit_base_patch16_rope_224", "no pos_embed"),
        ("vit_base_patch16_rope_ape_224", "gamma_1"),
        ("vit_small_patch16_rope_mixed_ape_224", "rope.freqs"),
        ("vit_small_patch16_dinov3", "no pos_embed"),
        ("vit_pe_lang_large_patch14_448", "norm_pre"),
        ("beit_base_patch16_224", "q_bias"),
        ("eva_unfused", "q_proj"),
        ("eva_align", "fc1_g|q_bias"),
        ("relpos_table", "relative_position_bias_table"),
        ("vit_srelpos_small_patch16_224", "shared_rel_pos"),
    ],
)
def test_without_json_nothing_is_guessed(name, reason, tmp_path):
    save(tmp_path, CASES[name])
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match=f"{reason}.*put timm's config.json beside it"):
        weights.read(tmp_path, num_heads=4, image_size=(16, 24), posemb="none")


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("plain", dict(qk_norm=True), "config.json says qk_norm True, the tensors False"),
        ("plain", dict(pre_norm=True), "json says norm_pre True, the tensors False"),
        ("plain", dict(norm_layer="rmsnorm"), "json says norm rms, the tensors layer"),
        ("plain", dict(pos_embed="none"), "its pos_embed does not suit the file"),
        ("plain", dict(reg_tokens=1), "json says registers 1, the tensors 0"),
        ("qkv_bias", dict(qkv_bias=True), "json says qkv_bias all, the tensors none"),
        ("final_norm", dict(final_norm=True), "its last norm is norm|final_norm"),
        ("beit_base_patch16_224", dict(qkv_bias=False), "qkv_bias none, the tensors no_key"),
        ("beit_base_patch16_224", dict(use_rel_pos_bias=False), "position_bias none, the tensors"),
        ("eva_giant_patch14_224", dict(attn_type="rope"), "qkv_bias all, the tensors no_key"),
        ("relpos_table", dict(rel_pos_type="mlp"), "position_bias mlp.*the tensors table"),
        ("vit_small_patch16_rope_mixed_224", dict(num_heads=8), "num_heads 8, the tensors 4"),
        ("notoken", dict(class_token=True), "class_token is True, but the file has no cls_token"),
    ],
)
def test_json_of_another_model_is_refused(name, changes, message, tmp_path):
    case = CASES[name]
    path = save(tmp_path, dict(case, model_args=case["model_args"] | changes))
    with pytest.raises(InputError, match=message) as refusal:
        weights.read(path)
    assert len(str(refusal.value).splitlines()) == 1


def test_a_mixed_rotary_is_read_from_json_alone(tmp_path):
    """Its frequencies show that there is one, and not the order of its coordinates."""
    case = CASES["vit_small_patch16_rope_mixed_224"]
    read = {
        order: weights.read(save(tmp_path, dict(case, model_args=case["model_args"] | order_of)))
        for order, order_of in (("xy", {}), ("yx", dict(rope_grid_indexing="ij")))
    }
    assert {order: each.config.rotary for order, each in read.items()} == {
        "xy": "mixed",
        "yx": "mixed(order='yx')",
    }


def test_naflexvit_needs_its_config(tmp_path):
    tensors = {"embeds.proj.weight": (32, 192), "blocks.0.norm1.weight": (32,)}
    arrays = {name: values(name, shape) for name, shape in tensors.items()}
    save_file(arrays, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="NaFlexVit; put timm's config.json beside it"):
        weights.read(tmp_path)


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("plain", dict(out_bias=False), "mlp_bias=True"),
        ("plain", dict(projection=8), "projection=8"),
        ("plain", dict(patch_bias=False), "patch_bias=False"),
        ("plain", dict(block="branched(count=3)"), r"block='branched\(count=3\)'"),
        ("plain", dict(block="parallel", mlp="swiglu"), "mlp='swiglu'"),
        ("plain", dict(block="post_norm", layer_scale=0.1), "layer_scale=0.1"),
        ("plain", dict(rotary="indexed", gelu="tanh"), "gelu='tanh'"),
        ("plain", dict(rotary="indexed", norm="rms"), "norm='rms'"),
        ("plain", dict(rotary="mixed(layout='half')", qkv_bias="no_key"), "rotary=.mixed"),
        ("plain", dict(qkv_bias="no_key", patch_norm=True), "patch_norm=True"),
        ("plain", dict(position_bias="mlp", posemb="learned"), "posemb='learned'"),
        ("plain", dict(position_bias="table", qkv_bias="all", posemb="learned"), "qkv_bias='all'"),
        ("map", dict(mlp="swiglu"), "mlp='swiglu'"),
    ],
)
def test_what_timm_lacks_is_refused(name, changes, message, tmp_path):
    read = weights.read(save(tmp_path, CASES[name]))
    config = dataclasses.replace(read.config, **changes)
    model, options = models.identify(config)
    other = dataclasses.replace(read, name=model, options=options)
    with pytest.raises(InputError, match=f"timm has no model with {message}"):
        weights.write(other, tmp_path / "written", format="timm")


def test_bits_output_stride_is_refused():
    from vit_jax.weights.families import FAMILIES, Recognised

    document = dict(architecture="resnetv2_50x1_bit", model_args=dict(output_stride=16))
    family = FAMILIES["timm BiT"]
    found = Recognised("x", "timm BiT", family, {"config.json": dict(document, pretrained_cfg={})})
    with pytest.raises(InputError, match="output_stride is 16; it is not supported, only 32"):
        family.hints(found)


def test_the_table_tells_heads_activations_and_epsilons():
    assert len(architectures()) > 330
    kind, options = architecture("vit_base_patch32_siglip_256.v2_webli")
    assert (kind, options["num_heads"], options["act_layer"]) == ("vit", 12, "gelu_tanh")
    assert architecture("vit_base_patch16_224_in21k") == architecture("vit_base_patch16_224")
    kind, options = architecture("vit_base_patch16_rope_ape_224")
    assert (kind, options["rope_temperature"], options["rope_grid_indexing"]) == ("eva", 100, "xy")
    assert architecture("naflexvit_base_patch16_radio_v3") is None


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
