"""Writes vit_jax/weights/published.tsv: the list of published weights.

    python tests/weights/timm/write_published.py TIMM_REPO OPEN_CLIP_REPO DINOV2_REPO

The arguments are clones of huggingface/pytorch-image-models, mlfoundations/open_clip and
facebookresearch/dinov2; timm 1.0.31 has to be importable. Names, licences and preprocessing are
those of timm's pretrained_cfg; shapes come from timm's models without values. An entry is listed if
it is read here. Figures come from files of the repositories, which `source` names:

* timm's results/results-imagenet.csv: fine-tuned, or with a linear head where the tag says so;
* open_clip's docs/openclip_results.csv: zero-shot, by the hub ids in src/open_clip/pretrained.py;
* DINOv2's README: linear.
"""

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import timm

from vit_jax import models
from vit_jax.errors import InputError
from vit_jax.models import flops
from vit_jax.weights.families import recognise
from vit_jax.weights.infer import infer

OUT = Path(__file__).parents[3] / "vit_jax" / "weights" / "published.tsv"
FIELDS = (
    *("name", "family", "model", "image_size", "millions", "classes", "licence", "figure"),
    *("figure_kind", "source", "preprocessing"),
)
MODULES = (
    *("vision_transformer", "deit", "vision_transformer_hybrid", "eva", "beit"),
    *("vision_transformer_relpos", "resnetv2"),
)
# What was pre-trained, by a part of timm's name, the first that matches.
FAMILIES = (
    ("dinov3", "DINOv3"),
    ("dinov2", "DINOv2"),
    (r"\.dino", "DINO"),
    ("siglip2|v2_webli", "SigLIP 2"),
    ("siglip", "SigLIP"),
    ("aimv2", "AIMv2"),
    ("vit_pe_", "Perception Encoder"),
    ("eva02", "EVA-02"),
    ("eva_", "EVA"),
    ("beit3", "BEiT-3"),
    ("beitv2", "BEiT v2"),
    ("beit", "BEiT"),
    ("clip", "CLIP"),
    (r"\.mae", "MAE"),
    ("ijepa", "I-JEPA"),
    ("augreg", "AugReg"),
    ("deit3", "DeiT-III"),
    ("deit", "DeiT"),
    ("sbb", "timm SBB"),
    ("resnetv2", "BiT"),
    ("flexi", "FlexiViT"),
    ("rope", "RoPE-ViT"),
    (r"\.sam", "ViT, sharpness-aware"),
    ("", "ViT"),
)


def shown(repository: str, path: str) -> str:
    """The text of a file of a clone."""
    command = ["git", "-C", repository, "show", f"HEAD:{path}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def timm_entry(name: str) -> dict:
    """The fields of an entry, without its figure.

    Raises:
      InputError: it is not read here.
    """
    model = timm.create_model(name, pretrained=False, device="meta")
    zero = np.zeros((), np.float32)
    tensors = {key: np.broadcast_to(zero, value.shape) for key, value in model.state_dict().items()}
    cfg = model.pretrained_cfg
    document = dict(
        architecture=cfg["architecture"],
        num_classes=cfg["num_classes"],
        pretrained_cfg={key: value for key, value in cfg.items() if value is not None},
    )
    if model.num_classes != cfg["num_classes"]:
        document["num_classes"] = model.num_classes
    document = json.loads(json.dumps(document))
    found = recognise(name, tensors, {"config.json": document})
    config = infer(name, found, dict(found.family.hints(found)), {})
    recipe = found.family.recipe(found)
    params = flops.parameters(config)
    assert params == sum(array.size for array in tensors.values()), (name, params)
    size = recipe.size or config.image_size
    return dict(
        name=cfg["hf_hub_id"],
        family=next(family for part, family in FAMILIES if re.search(part, name)),
        model=models.identify(config)[0],
        image_size=size[0],
        millions=round(params / 1e6, 2),
        classes=config.num_classes,
        licence=cfg.get("license") or "",
        preprocessing=recipe.spec(size),
    )


def zero_shot(repository: str) -> dict[str, float]:
    """Hub id -> top-1 on ImageNet in percent."""
    results = csv.DictReader(io.StringIO(shown(repository, "docs/openclip_results.csv")))
    figures = {(row["name"], row["pretrained"]): 100 * float(row["ImageNet 1k"]) for row in results}
    code = shown(repository, "src/open_clip/pretrained.py")
    found, groups = {}, dict(re.findall(r'"([\w-]+)":\s*(_\w+)', code.split("_PRETRAINED")[-1]))
    for model, group in groups.items():
        body = re.search(rf"^{group} = dict\((.*?)^\)", code, re.MULTILINE | re.DOTALL)
        for tag, inner in re.findall(r"(\w+)=_\w*cfg\((.*?)\)", body[1] if body else "", re.DOTALL):
            hub = re.search(r'hf_hub=["\']([^"\']+?)/?["\']', inner)
            if hub and (model, tag) in figures:
                found.setdefault(hub[1], figures[model, tag])
    return found


def main() -> None:
    timm_repo, clip_repo, dino_repo = sys.argv[1:]
    commit = shown_commit(timm_repo)
    rows = csv.DictReader(io.StringIO(shown(timm_repo, "results/results-imagenet.csv")))
    tuned = {row["model"]: float(row["top1"]) for row in rows}
    shots = zero_shot(clip_repo)
    linear = dinov2_linear(shown(dino_repo, "README.md"))
    entries, refused = [], []
    for name in timm.list_pretrained():
        if timm.models._registry._model_to_module[name.split(".")[0]] not in MODULES:
            continue
        try:
            entry = timm_entry(name)
        except InputError as error:
            refused.append(f"{name}: {error}")
            continue
        figure = ("", "", "")
        if name in tuned:
            kind = "linear" if name.endswith("_lc") or ".linear" in name else "fine-tuned"
            source = f"timm results/results-imagenet.csv {commit}"
            figure = (f"{tuned[name]:.2f}", kind, source)
        elif entry["name"] in shots:
            source = f"open_clip docs/openclip_results.csv {shown_commit(clip_repo)}"
            figure = (f"{shots[entry['name']]:.2f}", "zero-shot", source)
        elif name in linear:
            source = f"DINOv2 README.md {shown_commit(dino_repo)}"
            figure = (linear[name], "linear", source)
        entries.append(entry | dict(zip(("figure", "figure_kind", "source"), figure)))
    with OUT.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(entries, key=lambda entry: (entry["family"], entry["name"])))
    print(f"{len(entries)} entries, {len(refused)} refused", *refused, sep="\n", file=sys.stderr)


def shown_commit(repository: str) -> str:
    command = ["git", "-C", repository, "rev-parse", "--short=10", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def dinov2_linear(readme: str) -> dict[str, str]:
    """timm's name -> linear top-1 in percent, from the first table of DINOv2's README."""
    table = readme.split("</table>")[0]
    rows = re.findall(
        r"<td>ViT-(\w)/14.*?(:x:|:white_check_mark:).*?>([\d.]+)%.*?>([\d.]+)%", table, re.DOTALL
    )
    sizes = dict(S="small", B="base", L="large", g="giant")
    found = {}
    for size, registers, _, linear in rows:
        reg = "_reg4" if registers == ":white_check_mark:" else ""
        found[f"vit_{sizes[size]}_patch14{reg}_dinov2.lvd142m"] = linear
    return found


if __name__ == "__main__":
    main()
