"""timm's NaFlexVit: logits of images of two grids, or refusal by name.

naflex.json holds the logits of timm 1.0.31's own models (torch 2.13.0); write_naflex.py wrote it.
"""

import functools
import json
import re
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from vit_jax import data, weights
from vit_jax.errors import InputError
from vit_jax.models import abstract, build_model
from vit_jax.models.naflex import Patches

HERE = Path(__file__).parent
DOCUMENT = json.loads((HERE / "naflex.json").read_text())
CASES, LENGTH, PATCH = DOCUMENT["cases"], DOCUMENT["length"], DOCUMENT["patch"]
values = runpy.run_path(str(HERE / "reference.py"))["values"]
REFUSED = {
    "preserving": "pos_embed_ar_preserving is True",
    "factorised": "pos_embed is 'factorized'",
    "axial": "rope_type is 'axial'",
}
CFG = dict(input_size=[3, 3 * PATCH, 3 * PATCH], interpolation="bicubic", crop_pct=1.0)
CFG |= dict(mean=[0.5] * 3, std=[0.5] * 3)


def save(path, case, **changes):
    save_file({n: values(n, s) for n, s in case["shapes"].items()}, path / "model.safetensors")
    document = dict(architecture=case["architecture"], model_args=case["model_args"] | changes)
    document |= dict(pretrained_cfg=CFG, num_classes=5)
    (path / "config.json").write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("name", CASES)
def test_a_model_gives_timms_logits_or_is_refused(name, tmp_path):
    path = save(tmp_path, CASES[name])
    if name in REFUSED:
        with pytest.raises(InputError, match=re.escape(REFUSED[name])) as refusal:
            weights.read(path)
        assert len(str(refusal.value).splitlines()) == 1
        return
    info = weights.read(path)
    graphdef, _ = abstract(functools.partial(build_model, info.config))
    run = jax.jit(lambda params, images: nnx.merge(graphdef, params)(images))
    shape = (2, LENGTH, PATCH, PATCH, 3)
    pixels = np.random.default_rng(1).standard_normal((*shape[:2], PATCH * PATCH * 3)).astype("f")
    images = Patches(jnp.asarray(pixels.reshape(shape)), jnp.asarray(DOCUMENT["grids"], jnp.int32))
    expected = np.array(CASES[name]["logits"])
    error = np.abs(np.asarray(run(info.params, images)) - expected).max()
    assert error < 2e-5 * np.abs(expected).max()
    assert data.parse(info.pp).deterministic().naflex.patches == LENGTH
    assert any("SigLIP 2's rule" in line for line in info.report)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(pos_embed_grid_size=[4, 4]), "pos_embed_grid_size is (4, 4)"),
        (dict(attn_type="eva"), "attn_type is 'eva'"),
        (dict(pos_embed_antialias=False), "pos_embed_antialias is False"),
        (dict(something=1), "something is 1; this field is not known"),
    ],
)
def test_other_arguments_are_refused_by_name(changes, message, tmp_path):
    with pytest.raises(InputError, match=re.escape(message)):
        weights.read(save(tmp_path, CASES["gap"], **changes))
