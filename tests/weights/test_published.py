"""The list of published weights, against timm's counts and a copy of the hub's cache."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

import vit_jax
from vit_jax import data, weights
from vit_jax.cli.main import main
from vit_jax.errors import InputError
from vit_jax.models import model_config
from vit_jax.models.variants import canonical_name
from vit_jax.weights.published import FIGURES, TABLE, find_published, published
from vit_jax.weights.record import parameter_shapes

# timm's `param_count` in millions, from results/results-imagenet.csv, and authors' own counts.
COUNTS = {
    "timm/eva02_large_patch14_448.mim_m38m_ft_in22k_in1k": 305.08,
    "timm/beit_base_patch16_224.in22k_ft_in22k_in1k": 86.53,
    "timm/deit_tiny_distilled_patch16_224.fb_in1k": 5.91,
    "timm/deit3_huge_patch14_224.fb_in1k": 632.13,
    "timm/vit_base_patch16_224.augreg_in21k_ft_in1k": 86.57,
    "timm/vit_base_r50_s16_384.orig_in21k_ft_in1k": 98.95,
    "timm/vit_large_patch14_clip_336.openai_ft_in12k_in1k": 304.53,
    "timm/vit_relpos_base_patch16_224.sw_in1k": 86.43,
    "timm/resnetv2_152x4_bit.goog_in21k_ft_in1k": 936.53,
}


def test_every_row_is_whole():
    names = [entry.name for entry in published()]
    assert len(set(names)) == len(names) > 300
    assert TABLE.stat().st_size < 100_000
    for entry in published():
        assert re.fullmatch(r"[\w.-]+/[\w.-]+|gs://\S+\.npz", entry.name), entry
        assert canonical_name(entry.model) == entry.model
        assert set(entry.figures) <= set(FIGURES), entry
        assert bool(entry.figures) == bool(entry.source), entry
        assert all(1 < figure < 100 for figure in entry.figures.values())
        assert entry.parameters > 1e5 and entry.classes >= 0 and entry.family
        assert re.fullmatch(r"([\w-]+/[\w-]+@[0-9a-f]{10} \S+)?", entry.source)
        preprocess = data.parse(entry.preprocessing).deterministic()
        if not preprocess.naflex:
            assert preprocess.ops[-1].shape == (entry.image_size, entry.image_size), entry


def test_counts_are_those_of_timm():
    parameters = {entry.name: entry.parameters for entry in published()}
    assert {name: round(parameters[name] / 1e6, 2) for name in COUNTS} == COUNTS


def test_counts_of_igpt_are_those_of_its_paper():
    """76M, 455M and 1362M parameters (Chen et al. 2020, section 3)."""
    parameters = {entry.name: entry.parameters for entry in published()}
    sizes = (parameters[f"openai/imagegpt-{size}"] for size in ("small", "medium", "large"))
    assert [size // 10**6 for size in sizes] == [76, 455, 1362]


def test_figures_say_how_they_were_reached():
    figures = {entry.name: (entry.figures, entry.source) for entry in published()}
    dino, source = figures["facebook/dinov2-base"]
    assert dino == {"k-NN": 82.1, "linear": 84.5} and "facebookresearch/dinov2@" in source
    tuned, source = figures["timm/vit_base_patch16_224.augreg_in21k_ft_in1k"]
    assert list(tuned) == ["fine-tuned"] and source.endswith("results/results-imagenet.csv")
    assert list(figures["timm/deit_tiny_patch16_224.fb_in1k"][0]) == ["supervised"]


def test_the_command_and_the_function_list_the_same(capfd):
    assert main(["models", "--pretrained", "dinov3-*", "--json"]) == 0
    listed = json.loads(capfd.readouterr().out)
    assert {each["family"] for each in listed} == {"DINOv3"}
    assert [each["name"] for each in listed] == vit_jax.list_models("dinov3-*", pretrained=True)
    assert "facebook/dinov3-vitb16-pretrain-lvd1689m" in [each["name"] for each in listed]
    assert main(["models", "--pretrained", "DINOv2"]) == 0
    assert "k-NN 82.1, linear 84.5" in capfd.readouterr().out
    assert main(["models", "--pretrained", "nothing*"]) == 2
    out, err = capfd.readouterr()
    assert out == "" and len(err.strip().splitlines()) == 1 and "nothing*" in err


def test_the_guide_shows_what_the_command_prints(capfd):
    guide = (Path(__file__).parents[2] / "docs" / "published_weights.md").read_text()
    shown = re.search(r"^\$ vit_jax models --pretrained \"(\S+)\"\n(.*?)```", guide, re.M | re.S)
    assert main(["models", "--pretrained", shown[1]]) == 0
    assert capfd.readouterr().out == shown[2]


NAME = "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
LOADS = f"""
import json, sys, jax, vit_jax
from vit_jax.errors import InputError
results = []
for name in ("{NAME}", "{NAME}:other/tiny.npz", "{NAME}:other/none.npz", "timm/vit_absent.x"):
    try:
        model, info = vit_jax.load(name)
        count = sum(leaf.size for leaf in jax.tree.leaves(vit_jax.models.split(model)[1]))
        results.append([info.name, info.pp, info.config.num_classes, count])
    except InputError as error:
        results.append(str(error))
print(json.dumps(results))
"""


def test_names_load_from_the_hubs_cache_alone(tmp_path):
    """In a process without a network; files as they lie in the cache of huggingface_hub."""
    pytest.importorskip("huggingface_hub")
    cache = tmp_path / "hub" / "models--timm--vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    snapshot = cache / "snapshots" / ("0" * 40)
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("0" * 40)
    options = dict(num_classes=1000, gelu="erf")
    config = model_config("ViT-Ti/16", **options)
    own = weights.Weights(
        name="ViT-Ti/16",
        options=options,
        params=unflatten_dict(
            {path: np.zeros(shape) for path, shape in parameter_shapes(config).items()}, sep="/"
        ),
        pp="decode|resize(224)|value_range(-1, 1)",
    )
    weights.write(own, snapshot, format="timm")
    weights.write(own, snapshot / "other" / "tiny.npz")
    half = [0.5, 0.5, 0.5]
    document = dict(
        architecture="vit_tiny_patch16_224",
        num_classes=1000,
        num_features=192,
        pretrained_cfg=dict(
            tag="augreg_in21k_ft_in1k",
            custom_load=True,
            input_size=[3, 224, 224],
            fixed_input_size=True,
            interpolation="bicubic",
            crop_pct=0.9,
            crop_mode="center",
            mean=half,
            std=half,
            num_classes=1000,
            pool_size=None,
            first_conv="patch_embed.proj",
            classifier="head",
        ),
    )
    (snapshot / "config.json").write_text(json.dumps(document))
    environment = os.environ | dict(HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    done = subprocess.run(
        [sys.executable, "-c", LOADS], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    whole, part, without, absent = json.loads(done.stdout)
    (entry,) = find_published(NAME)
    assert whole == [entry.model, entry.preprocessing, entry.classes, entry.parameters]
    assert part == ["ViT-Ti/16", own.pp, 1000, entry.parameters]
    assert without.startswith(f"{NAME} has no file other/none.npz")
    assert len(absent.splitlines()) == 1
    assert absent.startswith("timm/vit_absent.x is no local path")
    assert "hf download timm/vit_absent.x" in absent


def test_a_name_without_a_network_gives_one_line(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def unreachable(*args, **options):
        raise OSError("no route to host\nat all")

    monkeypatch.setattr(hub.HfApi, "model_info", unreachable)
    monkeypatch.setattr(hub, "snapshot_download", unreachable)
    with pytest.raises(InputError) as refusal:
        vit_jax.load("facebook/dinov3-vitb16-pretrain-lvd1689m")
    line = str(refusal.value)
    assert len(line.splitlines()) == 1
    assert "OSError: no route" in line and "hf download facebook/dinov3-vitb16" in line
