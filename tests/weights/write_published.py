"""Writes vit_jax/weights/published.tsv: the list of published weights.

    python tests/weights/write_published.py MIRRORS

MIRRORS is a folder with bare clones, named owner+name/repo, of the repositories in
`published_figures.SOURCES`; timm 1.0.31 and transformers have to be importable. Names, licences and
preprocessing of timm's weights are those of its pretrained_cfg, and shapes those of its models.
An entry is listed if its tensors and its config.json are read here. No file is downloaded.
"""

import csv
import functools
import importlib
import json
import re
import sys
from pathlib import Path

import numpy as np
from published_figures import augreg, commits, figures
from published_transformers import LISTED, Listed

from vit_jax import models
from vit_jax.errors import InputError
from vit_jax.models import flops
from vit_jax.weights.families import recognise
from vit_jax.weights.infer import infer
from vit_jax.weights.preprocessing import Recipe
from vit_jax.weights.published import COLUMNS, TABLE
from vit_jax.weights.read import matched

MODULES = (
    *("vision_transformer", "deit", "vision_transformer_hybrid", "eva", "beit"),
    *("vision_transformer_relpos", "resnetv2", "naflexvit"),
)
# What was pre-trained, by a part of timm's name, the first that matches.
FAMILIES = (
    ("eupe", "EUPE"),
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
    ("naflexvit", "NaFlexViT"),
    ("radio", "C-RADIO"),
    ("^test_", "timm, for tests"),
    (r"\.sam", "ViT, sharpness-aware"),
    ("", "ViT"),
)


def entry(name, family, state, documents, licence) -> dict:
    """The fields of an entry, without its figures.

    Args:
      name: name for `load`.
      family: what was pre-trained.
      state: tensors of PyTorch, without values.
      documents: contents of the JSON files beside them, by name.
      licence: licence of the weights.

    Raises:
      InputError: it is not read here.
    """
    zero = np.zeros((), np.float16)
    tensors = {key: np.broadcast_to(zero, tuple(value.shape)) for key, value in state.items()}
    found = recognise(name, tensors, json.loads(json.dumps(documents)))
    hints = dict(found.family.hints(found))
    hints.pop("notes", ()), hints.pop("resample", "")
    config = infer(name, found, hints, {})
    matched(config, found)
    recipe = found.family.recipe(found)
    size = recipe.size or config.image_size
    model, _ = models.identify(config)
    return dict(
        name=name,
        family=family,
        model=model,
        image_size=size[0],
        parameters=parameters(config),
        classes=config.num_classes,
        licence=licence or "",
        figures="",
        source="",
        preprocessing=recipe.spec(size),
    )


parameters = functools.cache(flops.parameters)


def timm_entry(name: str) -> dict:
    """The entry of timm's weights; see `entry`."""
    timm = importlib.import_module("timm")
    cfg = timm.get_pretrained_cfg(name).to_dict()
    if cfg.get("hf_hub_id") != f"timm/{name}" or cfg.get("hf_hub_filename"):
        raise InputError(f"it has no file of its own in timm's layout: {cfg.get('hf_hub_id')}")
    model = timm.create_model(name, pretrained=False, device="meta")
    document = dict(
        architecture=cfg["architecture"],
        num_classes=model.num_classes,
        pretrained_cfg={key: value for key, value in cfg.items() if value is not None},
    )
    family = next(family for part, family in FAMILIES if re.search(part, name))
    state = model.state_dict()
    found = entry(cfg["hf_hub_id"], family, state, {"config.json": document}, cfg.get("license"))
    count = sum(parameter.numel() for parameter in model.parameters())
    assert found["parameters"] == count, (name, found["parameters"], count)
    return found


def transformers_entry(listed: Listed) -> dict:
    """The entry of weights in transformers' layout; see `entry`."""
    torch = importlib.import_module("torch")
    transformers = importlib.import_module("transformers")
    cls = getattr(transformers, listed.cls)
    with torch.device("meta"):
        model = cls(cls.config_class(**listed.config))
    document = model.config.to_diff_dict() | dict(model_type=model.config.model_type)
    documents = {"config.json": document, "preprocessor_config.json": listed.processor}
    licence = ""
    if listed.twin:
        licence = importlib.import_module("timm").get_pretrained_cfg(listed.twin).license
    return entry(listed.name, listed.family, model.state_dict(), documents, licence)


def timm_entries(refused: list[str]) -> list[dict]:
    timm = importlib.import_module("timm")
    registry = importlib.import_module("timm.models._registry")
    entries = []
    for name in timm.list_pretrained():
        if registry._model_to_module[name.split(".")[0]] not in MODULES:
            continue
        try:
            entries.append(timm_entry(name))
        except InputError as error:
            refused.append(f"{name}: {error}")
        except AssertionError as error:
            refused.append(f"{name}: WRONG {error}")
        print(len(entries), name, file=sys.stderr, flush=True)
    return entries


def augreg_entries(mirrors: Path) -> list[dict]:
    """Google's own files of AugReg, of which the README gives names and figures."""
    entries = []
    for short, pretrained, tuned, _ in augreg(mirrors):
        stem, _, patch = short.rpartition("+")
        model = "+".join(filter(None, (stem, f"ViT-{patch}")))
        for name, classes, size in ((pretrained, 21843, 224), (tuned, 1000, 384)):
            config = models.model_config(model, num_classes=classes, image_size=size)
            entries.append(
                dict(
                    name=name,
                    family="AugReg",
                    model=models.identify(config)[0],
                    image_size=size,
                    parameters=parameters(config),
                    classes=classes,
                    licence="",
                    figures="",
                    source="",
                    preprocessing=Recipe(antialias=False).spec((size, size)),
                )
            )
    return entries


def main() -> None:
    mirrors = Path(sys.argv[1])
    refused: list[str] = []
    entries = timm_entries(refused)
    entries += [transformers_entry(listed) for listed in LISTED] + augreg_entries(mirrors)
    write(entries, mirrors)
    print(f"{len(entries)} entries, {len(refused)} refused", *refused, sep="\n", file=sys.stderr)


def write(entries: list[dict], mirrors: Path) -> None:
    """Writes the table, with figures and their sources."""
    published = figures(mirrors)
    entries = sorted(entries, key=lambda each: (each["family"], each["name"]))
    for each in entries:
        each["figures"], each["source"] = published.get(each["name"], ("", ""))
    specs: dict[str, str] = {}
    for each in entries:
        spec = each["preprocessing"]
        each["preprocessing"] = specs.setdefault(spec, f"p{len(specs) + 1}")
    texts = commits(mirrors) | {key: spec for spec, key in specs.items()}
    with TABLE.open("w", newline="") as file:
        file.writelines(f"# {key}\t{text}\n" for key, text in texts.items())
        writer = csv.DictWriter(file, COLUMNS, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(entries)


if __name__ == "__main__":
    main()
