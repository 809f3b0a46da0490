"""Compares every ViT of timm with ours, tiny and with random parameters; needs timm 1.0.31.

    PYTHONPATH=. python tests/weights/timm/sweep.py [PART_OF_A_NAME ...]

Each architecture gives equal logits, and again from the files that are written for timm, or is
refused. Architectures that differ in sizes alone are compared once.
"""

import collections
import dataclasses
import importlib
import json
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from reference import create, images, logits, pair, values
from safetensors.numpy import save_file

from vit_jax import weights
from vit_jax.errors import InputError
from vit_jax.models import abstract, build_model
from vit_jax.weights.formats.timm.architectures import architecture

MODULES = ("vision_transformer", "deit", "vision_transformer_hybrid")
MODULES += ("eva", "beit", "vision_transformer_relpos")
SIZES = dict(embed_dim=32, depth=2, num_heads=4, num_classes=5)
# Arguments without which the tiny model cannot be built.
NEEDED = {"mci": dict(embed_dim=768), "sapiens2": dict(num_kv_heads=2)}


def names():
    from timm.models import _registry

    importlib.import_module("timm.models")
    for module in MODULES:
        for name in sorted(_registry._module_to_models[module]):
            if name not in _registry._deprecated_models:
                yield module, name


def arguments(module, name):
    large = module.endswith("hybrid")
    sizes = dict(img_size=64) if large else dict(img_size=[16, 24], patch_size=8)
    return SIZES | sizes | next((own for part, own in NEEDED.items() if part in name), {})


def compare(name, given, folder):
    """ "equal", "refused: why" or "WRONG: by how much"."""
    model, shapes = create(name, given)
    expected = logits(model, pair(given["img_size"]))
    save_file({k: values(k, shape) for k, shape in shapes.items()}, folder / "model.safetensors")
    document = dict(architecture=name, model_args=given, pretrained_cfg={}, num_classes=5)
    (folder / "config.json").write_text(json.dumps(document))
    try:
        read = weights.read(folder)
    except InputError as refusal:
        assert len(str(refusal).splitlines()) == 1
        return f"refused: {refusal}"
    config = read.config
    graphdef, _ = abstract(lambda rngs: build_model(config, rngs))
    ours = jax.jit(lambda p, x: nnx.merge(graphdef, p)(x))(read.params, images(config.image_size))
    results = [np.asarray(ours)]
    if config.resnet_stages is None:
        results.append(written_for_timm(read, folder / "written"))
    error = max(np.abs(result - expected).max() for result in results) / np.abs(expected).max()
    return "equal" if error < 1e-4 else f"WRONG: {error}"


def written_for_timm(read, folder):
    import timm

    weights.write(dataclasses.replace(read, aside={}), folder, format="timm")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    return logits(model, read.config.image_size)


def main():
    wanted, seen = sys.argv[1:], {}
    for module, name in names():
        if wanted and not any(part in name for part in wanted):
            continue
        kind, usual = architecture(name)
        rest = {k: v for k, v in usual.items() if k not in (*SIZES, "patch_size", "img_size")}
        key = str((kind, sorted((k, v) for k, v in rest.items() if v is not None)))
        if key not in seen:
            with tempfile.TemporaryDirectory() as folder:
                seen[key] = (compare(name, arguments(module, name), Path(folder)), [])
        seen[key][1].append(name)
    counts = collections.Counter()
    for result, alike in seen.values():
        counts[result.partition(":")[0]] += len(alike)
        if result != "equal":
            print(", ".join(alike), result, sep="\n  ")
    print(dict(counts), f"in {len(seen)} kinds")


if __name__ == "__main__":
    main()
