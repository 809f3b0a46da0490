"""JSON beside weights with one value changed: taken as it was, or refused in one line."""

import copy
import json
import tracemalloc

import numpy as np
import pytest
from flax import traverse_util

from vit_jax.errors import InputError
from vit_jax.models import identify, model_config
from vit_jax.weights import Weights, read, write
from vit_jax.weights.record import parameter_shapes

NAN = float("nan")
JUNK = [None, [], {}, ["x"], "x", "", True, -1, 0.5, 7, 10**6, 1e29, 10**400, NAN]
SMALL = dict(width=32, depth=2, mlp_dim=48, num_heads=4, patch_size=4, image_size=8)


OURS = dict(hidden_size="width", embed_dim="width", num_hidden_layers="depth", mlp_ratio="mlp_dim")
OURS |= dict(
    num_attention_heads="heads",
    model_args="num_heads",
    intermediate_size="mlp_dim",
    num_heads="heads",
)


def small_weights(name="ViT-B/16", **options):
    config = model_config(name, **{**SMALL, "num_classes": 3, **options})
    rng = np.random.default_rng(0)
    params = {
        path: rng.normal(size=shape).astype(np.float32)
        for path, shape in parameter_shapes(config).items()
    }
    name, options = identify(config)
    return Weights(
        name=name,
        options=options,
        params=traverse_util.unflatten_dict(params, sep="/"),
        pp="resize(8)|value_range(-1, 1)",
        labels=["cat", "dog", "fox"],
        multi_label=True,
    )


def mutations(document, path=()):
    """(path of the key, the document with one value changed or dropped) of every kind."""
    here = document
    for step in path:
        here = here[step]
    steps = here.keys() if isinstance(here, dict) else range(len(here))
    for step in steps:
        for value in [*JUNK, "dropped"]:
            changed = copy.deepcopy(document)
            parent = changed
            for each in path:
                parent = parent[each]
            if value == "dropped":
                del parent[step]
            else:
                parent[step] = value
            if json.dumps(changed) != json.dumps(document):
                yield (*path, step), changed
        if isinstance(here[step], (dict, list)):
            yield from mutations(document, (*path, step))


def outcome(path):
    """What is read, or the error's line."""
    try:
        return read(path)
    except InputError as error:
        assert "\n" not in str(error), error
        return str(error)


def same_function(a, b):
    """Whether two records compute the same from the same bytes of images."""
    flat = [traverse_util.flatten_dict(each.params, sep="/") for each in (a, b)]
    arrays = flat[0].keys() == flat[1].keys()
    arrays = arrays and all(np.array_equal(flat[0][k], flat[1][k]) for k in flat[0])
    return arrays and (a.config, a.pp, a.multi_label) == (b.config, b.pp, b.multi_label)


@pytest.mark.parametrize(
    "name, options",
    [
        ("ViT-B/16", dict(gelu="erf", layer_scale=0.1, registers=2, posemb_class_slot=False)),
        ("R50+ViT-B/16", dict(patch_size=1, image_size=32, resnet_stages=(1, 1))),
    ],
)
def test_our_own_description(name, options, tmp_path):
    """Whatever single value is changed, the model that is read is the one that was written."""
    weights = small_weights(name, **options)
    file = tmp_path / "x.npz"
    write(weights, file)
    sidecar = tmp_path / "x.npz.json"
    document = json.loads(sidecar.read_text())
    assert same_function(read(file), weights)
    refused = 0
    for key, changed in mutations(document):
        sidecar.write_text(json.dumps(changed))
        found = outcome(file)
        if isinstance(found, str):
            refused += 1
            assert str(sidecar) in found and str(key[0]).removesuffix("_sha256") in found, found
        else:
            assert key[0] in ("pp", "labels", "report", "multi_label", "model_sha256"), key
            if key[0] not in ("pp", "multi_label"):
                assert same_function(found, weights), key
    assert refused > 150


def test_a_description_of_an_earlier_version(tmp_path):
    """Without the digest types and sizes still decide; the tensors are the reference."""
    weights = small_weights(gelu="erf", registers=2)
    file = tmp_path / "x.npz"
    write(weights, file)
    sidecar = tmp_path / "x.npz.json"
    document = json.loads(sidecar.read_text())
    del document["model_sha256"]
    sidecar.write_text(json.dumps(document))
    assert same_function(read(file), weights)
    sizes = ("width", "depth", "mlp_dim", "patch_size", "registers", "num_classes", "name")
    for key, changed in mutations(document):
        sidecar.write_text(json.dumps(changed))
        found = outcome(file)
        if isinstance(found, str):
            assert str(sidecar) in found and str(key[0]) in found, found
            if len(key) > 1 and key[1] in sizes and "dropped" not in found:
                named = key[1] in found or "unknown model" in found
                assert named or "model does not fit" in found, (key, found)
        else:
            assert key[:2] not in {("model", size) for size in sizes}, key


@pytest.mark.parametrize(
    "key", ["depth", "width", "mlp_dim", "registers", "image_size", "pre_logits"]
)
def test_nothing_is_made_in_a_size_that_only_the_json_claims(key, tmp_path):
    file = tmp_path / "x.npz"
    write(small_weights(), file)
    sidecar = tmp_path / "x.npz.json"
    document = json.loads(sidecar.read_text())
    del document["model_sha256"]
    document["model"][key] = [10**6, 10**6] if key == "image_size" else 4 * 10**6
    sidecar.write_text(json.dumps(document))
    tracemalloc.start()
    try:
        found = outcome(file)
        assert tracemalloc.get_traced_memory()[1] < 32 * 2**20
    finally:
        tracemalloc.stop()
    assert isinstance(found, str) and str(sidecar) in found


@pytest.mark.parametrize(
    "content",
    [b"{", b"\xff", b"[]", b"3", b"null", b'"x"', b"[" * 100_000, b'{"a":' * 100_000, b"{}"],
)
@pytest.mark.parametrize("place", ["x.npz.json", "config.json", "preprocessor_config.json"])
def test_what_is_no_object(content, place, tmp_path):
    if place == "x.npz.json":
        write(small_weights(), tmp_path / "x.npz")
        path, file = tmp_path / "x.npz", tmp_path / place
    else:
        write(small_weights(gelu="erf"), tmp_path / "d")
        path, file = tmp_path / "d", tmp_path / "d" / place
    assert not isinstance(outcome(path), str)
    file.write_bytes(content)
    found = outcome(path)
    if content == b"{}" and place != "x.npz.json":
        return  # an object, if an empty one: heads are asked for
    assert isinstance(found, str) and str(file) in found


@pytest.mark.parametrize("format", ["huggingface", "timm"])
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_directories_of_other_programs(format, name, tmp_path):
    """No traceback and no second line; what is refused is named. Values: test_*_options.py."""
    weights = small_weights(gelu="erf")
    write(weights, tmp_path / "d", format=format)
    file = tmp_path / "d" / name
    if not file.exists():
        return
    document = json.loads(file.read_text())
    document.pop("vit_jax", None)
    file.write_text(json.dumps(document))
    read(tmp_path / "d")
    for key, changed in mutations(document):
        file.write_text(json.dumps(changed))
        found = outcome(tmp_path / "d")
        if isinstance(found, str):
            # Sizes are named as here, and what config.json leaves open is asked for by its name.
            words = {str(step) for step in key} | {OURS.get(step) for step in key} - {None}
            assert "config.json" in found or "num_heads" in found, (key, found)
            assert any(word in found for word in words), (key, found)
