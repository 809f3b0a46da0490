"""A model's weights -> the files that other programs read or run."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from vit_jax.errors import InputError, unknown
from vit_jax.models.config import BiTConfig
from vit_jax.weights import documents
from vit_jax.weights.families import FAMILIES, QKV
from vit_jax.weights.read import layouts
from vit_jax.weights.record import Published

# Format -> what its paths end in; "" is a directory. The first format of an ending is meant
# where none is given.
FORMATS = dict(
    google=(".npz",),
    huggingface=("",),
    timm=(".safetensors", ""),
    stablehlo=(".stablehlo",),
    savedmodel=("",),
)
Tensors = dict[str, np.ndarray]
# big_vision counts the sub-layers of a block by their type.
_TO_BIG_VISION = (
    (r"^(Transformer/encoderblock_\d+)/LayerNorm_2/", r"\1/LayerNorm_1/"),
    (
        r"^(Transformer/encoderblock_\d+)/MultiHeadDotProductAttention_1/",
        r"\1/MultiHeadDotProductAttention_0/",
    ),
    (r"^(Transformer/encoderblock_\d+)/MlpBlock_3/", r"\1/MlpBlock_0/"),
    (r"^Transformer/posembed_input/pos_embedding$", "pos_embedding"),
)


def write(published: Published, path: str | Path, *, format: str = "") -> list[str]:
    """Writes weights with the names, shapes and JSON of another program, or as a program.

    Args:
      published: weights and their model.
      path: x.npz (google), x.safetensors (timm) or x.stablehlo, each with a .json beside it
        that says what names cannot; or a directory (huggingface, timm, savedmodel).
      format: one of FORMATS; "": by the path, where a directory is for Hugging Face.

    Returns:
      Lines that tell what was written, and what the other program does differently.

    Raises:
      InputError: the format has no place for a part of the model, or something is there.
    """
    path = Path(path)
    if not format:
        format = next(
            (name for name, ends in FORMATS.items() if path.suffix in ends), "huggingface"
        )
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    if path.suffix not in FORMATS[format]:
        names = " or ".join(f"x{suffix}" if suffix else "a directory" for suffix in FORMATS[format])
        raise InputError(f"{path}: format {format} is written to {names}")
    if path.exists():
        raise InputError(f"{path} exists; give another path, or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    writers = dict(google=_google, timm=_timm, huggingface=_huggingface)
    return writers.get(format, _program)(published, path)


def _named(published: Published, family: str, renames: Sequence[tuple[str, str]] = ()) -> Tensors:
    """The parameters under a family's names."""
    table = next(f.table for f in FAMILIES if f.name == family)
    params = traverse_util.flatten_dict(published.params, sep="/")
    tensors = {}
    for path, layout in layouts(published.config, table, family).items():
        for name, array in layout.to_theirs(params[path], QKV).items():
            for pattern, replacement in renames:
                name = re.sub(pattern, replacement, name)
            tensors[name] = array
    return tensors


def _own(published: Published) -> dict[str, Any]:
    """What `metadata.sidecar` reads back."""
    return dict(
        model=dict(name=published.name, **published.options),
        pp=published.pp,
        labels=published.labels,
        report=published.report,
    )


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _save(path: Path, tensors: Tensors, files: dict[Path, Any]) -> list[str]:
    """Writes tensors and JSON; returns a line for each file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        np.savez(path, **tensors)
    else:
        from safetensors.numpy import save_file

        save_file(tensors, path, metadata={"format": "pt"})
    return [f"wrote {path}: {len(tensors)} tensors", *_save_json(files)]


def _save_json(files: dict[Path, Any]) -> list[str]:
    for file, document in files.items():
        file.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")
    return [f"wrote {file}" for file in files]


def _google(published: Published, path: Path) -> list[str]:
    config = published.config
    if isinstance(config, BiTConfig):
        tensors = _named(published, "Google BiT" if config.preact else "Google ResNet")
        beyond = []
    else:
        # vision_transformer has no MAP head and no class token without a position.
        big_vision = config.head == "map" or (config.has_class_token and not config.posemb_slots)
        tensors = _named(published, "Google ViT", _TO_BIG_VISION if big_vision else ())
        beyond = _beyond_google(config)
    files = {_sidecar(path): _own(published)}
    return [*_save(path, tensors | published.aside, files), *beyond]


def _beyond_google(config: Any) -> list[str]:
    """What Google's code would compute differently or not at all."""
    features = dict(
        registers=config.registers,
        LayerScale=config.layer_scale is not None,
        distillation=config.distillation != "none",
        swiglu=config.mlp == "swiglu",
        qk_norm=config.qk_norm,
        pool_then_norm=config.pool_then_norm,
        token_gap=config.head == "token_gap",
        posemb_where=config.posemb_where != "stem",
    )
    lines = [f"vision_transformer has no {name}" for name, used in features.items() if used]
    if config.gelu != "tanh":
        lines.append(
            "vision_transformer computes GELU by tanh, these weights were trained with erf"
        )
    return lines


def _timm(published: Published, path: Path) -> list[str]:
    config = published.config
    document = documents.timm(published)
    if isinstance(config, BiTConfig):
        tensors, lines = _named(published, "timm BiT"), _other_epsilon(config)
    else:
        renames = []
        if config.pool_then_norm:
            renames.append((r"^norm\.", "fc_norm."))
        if config.resnet_stages == ():
            renames.append((r"^patch_embed\.backbone\.stem\.", "patch_embed.backbone."))
        tensors = _named(published, "timm ViT", renames)
        lines = [f"timm's norm epsilon is 1e-6, not {config.norm_eps:g}"]
        lines = lines if config.norm_eps != 1e-6 else []
    lines += [f"left out, timm has none: {name}" for name in published.aside]
    if path.suffix:
        return [*_save(path, tensors, {_sidecar(path): _own(published)}), *lines]
    files = {path / "config.json": dict(document, vit_jax=_own(published))}
    return [*_save(path / "model.safetensors", tensors, files), *lines]


def _program(published: Published, path: Path) -> list[str]:
    """The inference function, to be run without this package."""
    from vit_jax.weights import export

    if path.suffix:
        export.stablehlo(published, path)
        file = _sidecar(path)
    else:
        export.savedmodel(published, path)
        file = path / "vit_jax.json"
    return [f"wrote {path}", *_save_json({file: _own(published)})]


def _huggingface(published: Published, path: Path) -> list[str]:
    config = published.config
    files = {path / k: document for k, document in documents.huggingface(published).items()}
    files[path / "vit_jax.json"] = dict(report=published.report)
    kind = documents.huggingface_kind(config)
    lines = _other_epsilon(config)
    if kind == "bit":
        tensors = _named(published, "Hugging Face BiT")
    elif kind.startswith("dinov2"):
        renames = []
        if config.mlp == "swiglu":
            renames = [
                (r"\.mlp\.fc1\.", ".mlp.weights_in."),
                (r"\.mlp\.fc2\.", ".mlp.weights_out."),
            ]
        tensors = _named(published, "Hugging Face DINOv2", renames)
        mask = published.aside.get("mask_token", np.zeros((1, config.width), np.float32))
        tensors["embeddings.mask_token"] = mask.reshape(1, config.width)
    else:
        teacher = [(r"^classifier\.", "cls_classifier.")] if config.distillation == "head" else []
        tensors = _named(published, "Hugging Face ViT", teacher)
    if config.num_classes:
        prefix = "vit." if kind == "vit-hybrid" else f"{kind}."
        tensors = {
            name if "classifier" in name else prefix + name: array
            for name, array in tensors.items()
        }
    return [*_save(path / "model.safetensors", tensors, files), *lines]


def _other_epsilon(config: Any) -> list[str]:
    """A post-activation network norms after every convolution, which undoes its scale."""
    if not getattr(config, "preact", False) or config.resnet_conv_eps == 1e-8:
        return []
    return ["timm and transformers add 1e-8 to the variance of kernels, Google's code 1e-10"]
