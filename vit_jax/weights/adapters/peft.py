"""LoRA adapters in the files of peft: adapter_model.safetensors and adapter_config.json.

The names are those of ViT, DINOv2 and DINOv2 with registers in transformers. Its version 5 calls
`attention.q_proj` what version 4 called `attention.attention.query`. Both are read. Format "peft"
writes the former, "peft_transformers4" the latter: peft loads an adapter onto modules of the same
names only.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from vit_jax import models, schema
from vit_jax.errors import InputError
from vit_jax.files import expand
from vit_jax.models.vit_config import ViTConfig
from vit_jax.text import some
from vit_jax.weights.adapters.lora import TARGETS, kernel_of
from vit_jax.weights.families import FAMILIES, QKV, canonical_name
from vit_jax.weights.files.json_fields import Fields
from vit_jax.weights.files.tensors import not_floating, read_tensors
from vit_jax.weights.formats.huggingface.vit import DINOV2, HUGGINGFACE, model_type
from vit_jax.weights.layout import Layout, layout_of
from vit_jax.weights.record import Weights, parameter_shapes
from vit_jax.weights.write import Tensors, save, weight_format

TENSORS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_FAMILIES = ("Hugging Face ViT", "Hugging Face DINOv2", "Hugging Face DINOv2, halves apart")
_TOP = "base_model.model."
_HEAD = ("classifier.weight", "classifier.bias")
# Initial values that leave the base weights as they are.
_INITIAL = (True, False, "gaussian", "orthogonal", "eva")
# Fields that do not change what the tensors compute.
_HARMLESS = (
    *("auto_mapping", "base_model_name_or_path", "peft_version", "revision", "task_type"),
    *("inference_mode", "lora_dropout", "target_modules", "exclude_modules", "modules_to_save"),
    *("layers_to_transform", "layers_pattern", "rank_pattern", "eva_config", "megatron_core"),
    *("qalora_group_size", "runtime_config", "ensure_weight_tying"),
)


@dataclasses.dataclass(frozen=True)
class PeftAdapter:
    """An adapter as peft stores it.

    Attributes:
      path: its folder.
      updates: module, such as "vit.layers.0.attention.q_proj" -> (outputs, inputs) to be added to
        its weight, alpha / rank * B A.
      head: "classifier.weight" and "classifier.bias", if it has them.
    """

    path: Path
    updates: dict[str, np.ndarray]
    head: dict[str, np.ndarray]


def read_adapter(path: str | Path) -> PeftAdapter:
    """Reads a folder that peft's `save_pretrained` or `vit_jax convert` wrote.

    Raises:
      InputError: files are missing or damaged, or it is no plain LoRA of linear layers.
    """
    path = expand(path)
    if not (path / CONFIG).is_file():
        raise InputError(f"{path} is no adapter of peft: it has no {CONFIG}")
    scale = _scale(Fields(schema.read(path / CONFIG, dict), str(path / CONFIG)))
    file = next(
        (path / name for name in (TENSORS, "adapter_model.bin") if (path / name).exists()), None
    )
    if file is None:
        raise InputError(f"{path} is no adapter of peft: it has no {TENSORS}")
    tensors, _ = read_tensors(file)
    if wrong := not_floating(tensors):
        raise InputError(f"{file}: {some(wrong)} holds no floating-point numbers")
    named = {name.removeprefix(_TOP): np.asarray(x, np.float32) for name, x in tensors.items()}
    head = {name: named.pop(name) for name in _HEAD if name in named}
    modules = sorted({re.sub(r"\.lora_[AB]\.weight$", "", name) for name in named})
    updates = {}
    for module in modules:
        a, b = (named.pop(f"{module}.lora_{letter}.weight", None) for letter in "AB")
        if a is None or b is None or a.ndim != 2 or b.ndim != 2 or len(a) != b.shape[1]:
            raise InputError(
                f"{file}: {module} is no pair lora_A (rank, inputs), lora_B (outputs, rank); only "
                "LoRA of linear layers and a trained classifier are read"
            )
        updates[module] = scale(len(a)) * (b @ a)
    if head and len(head) < len(_HEAD):
        raise InputError(f"{file}: it has {next(iter(head))}, but not both of {', '.join(_HEAD)}")
    return PeftAdapter(path, updates, head)


def _scale(config: Fields) -> Any:
    """Rank -> factor of the product B A.

    Raises:
      InputError: a field says that the tensors are used otherwise than in LoRA.
    """
    config.only("peft_type", "LORA")
    config.take("r", int)
    alpha = config.take("lora_alpha", float, 8.0)
    root = config.take("use_rslora", bool, False)
    for name in ("use_dora", "fan_in_fan_out", "lora_bias"):
        config.only(name, False)
    config.only("bias", "none")
    config.only("init_lora_weights", *_INITIAL)
    config.ignore(_HARMLESS)
    for name, value in config.rest().items():
        if value:  # empty lists, objects and names switch nothing on
            raise config.error(name, value, "this variant of LoRA is not supported")
    return lambda rank: alpha / (rank**0.5 if root else rank)


def with_adapter(weights: Weights, path: str | Path) -> Weights:
    """The weights with an adapter of peft merged; its head takes the place of theirs.

    Args:
      weights: weights of a ViT, whose arrays may be sharded.
      path: folder of the adapter.

    Raises:
      InputError: as `read_adapter`; the model lacks a module, or one has another shape.
    """
    adapter = read_adapter(path)
    params = traverse_util.flatten_dict(weights.params, sep="/")
    words, rows, own = _places(weights, adapter)
    updates = {own[module]: update for module, update in adapter.updates.items()}
    for kernel, row in rows.items():
        wanted = {name: np.zeros(row.their_shape, np.float32) for name, _ in row.tensors(words)}
        if not wanted.keys() & updates.keys():
            continue
        for name in wanted.keys() & updates.keys():
            if updates[name].shape != wanted[name].shape:
                raise InputError(
                    f"{adapter.path}: the update of {name} has shape {updates[name].shape}, the "
                    f"model {wanted[name].shape}; take the weights that it was trained on"
                )
            wanted[name] = updates[name]
        params[kernel] = _sum(params[kernel], row.to_ours(wanted, words))
    report = [*weights.report, f"{adapter.path}: {len(updates)} LoRA updates merged"]
    merged = dataclasses.replace(weights, report=report)
    if adapter.head:
        merged = _with_head(merged, adapter, params)
    return dataclasses.replace(merged, params=traverse_util.unflatten_dict(params, sep="/"))


def _places(
    weights: Weights, adapter: PeftAdapter
) -> tuple[Mapping[str, Any], dict[str, Layout], dict[str, str]]:
    """A family's words, the layouts of kernels in it, and module -> its weight's name there.

    Raises:
      InputError: no family has all the modules.
    """
    shapes = parameter_shapes(weights.config)
    unknown: list[str] = []
    for title in _FAMILIES:
        family = FAMILIES[title]
        rows = {
            path: row
            for path, shape in shapes.items()
            if _is_target(path) and (row := layout_of(path, shape, family.table)) is not None
        }
        known = {name for row in rows.values() for name, _ in row.tensors(family.words)}
        for prefix in ("", *family.prefixes):
            own = {
                module: canonical_name(f"{module}.weight", prefix, family.renames)
                for module in adapter.updates
            }
            missing = sorted(module for module, name in own.items() if name not in known)
            if not missing:
                return family.words, rows, own
            if not unknown or len(missing) < len(unknown):
                unknown = missing
    raise InputError(
        f"{adapter.path}: {weights.name} has no place for {some(unknown, 2)}; adapters of ViT and "
        "DINOv2 in transformers are read, on query, key, value and dense layers of blocks"
    )


def _is_target(path: str) -> bool:
    return any(re.fullmatch(f"{pattern}/kernel", path) for pattern in TARGETS.values())


def _sum(kernel: Any, update: np.ndarray) -> Any:
    if isinstance(kernel, jax.Array):
        return jax.jit(jnp.add, out_shardings=kernel.sharding)(kernel, update)
    return kernel + update


def _with_head(weights: Weights, adapter: PeftAdapter, params: dict[str, Any]) -> Weights:
    """The model with the adapter's classifier, which is put into `params`.

    The classes of transformers have no layer between the pooled features and the classifier.
    """
    config = weights.config
    kernel, bias = (adapter.head[name] for name in _HEAD)
    if not isinstance(config, ViTConfig) or config.distillation == "head":
        raise InputError(f"{adapter.path}: {weights.name} has no place for {_HEAD[0]}")
    # DINOv2's classifier sees the class token and the mean of the patches.
    doubled = config.head == "token" and kernel.shape[1:] == (2 * config.width,)
    config = dataclasses.replace(
        config,
        num_classes=len(kernel),
        pre_logits=0,
        head="token_gap" if doubled else config.head,
    )
    if kernel.shape != (config.num_classes, config.feature_width) or bias.shape != kernel.shape[:1]:
        raise InputError(
            f"{adapter.path}: {_HEAD[0]} has shape {kernel.shape}, but the features of the model "
            f"have width {config.feature_width}"
        )
    for path in [path for path in params if path.startswith(("pre_logits/", "head/"))]:
        del params[path]
    params |= {"head/kernel": kernel.T, "head/bias": bias}
    name, options = models.identify(config)
    report = [*weights.report, f"{adapter.path}: its head of {len(bias)} classes"]
    return dataclasses.replace(weights, name=name, options=options, labels=[], report=report)


# Modules in the names of our tables -> in transformers 5.
_VERSION_5 = (
    (r"\.attention\.attention\.query$", ".attention.q_proj"),
    (r"\.attention\.attention\.key$", ".attention.k_proj"),
    (r"\.attention\.attention\.value$", ".attention.v_proj"),
    (r"\.attention\.output\.dense$", ".attention.o_proj"),
    (r"\.intermediate\.dense$", ".mlp.fc1"),
    (r"(\.\d+)\.output\.dense$", r"\1.mlp.fc2"),
)
_CLASSES = {
    "vit": ("ViT", "vit"),
    "dinov2": ("Dinov2", "dinov2"),
    "dinov2_with_registers": ("Dinov2WithRegisters", "dinov2_with_registers"),
}


@weight_format("peft", "")
def write(weights: Weights, path: Path) -> list[str]:
    """Writes a run's adapter and head for peft, with module names of transformers 5."""
    return _write(weights, path, version=5)


@weight_format("peft_transformers4", "")
def write_old(weights: Weights, path: Path) -> list[str]:
    """Writes a run's adapter and head for peft, with module names of transformers 4."""
    return _write(weights, path, version=4)


def _write(weights: Weights, path: Path, version: int) -> list[str]:
    """Writes the two files of peft.

    Raises:
      InputError: the weights have no adapter, or transformers no such model.
    """
    if weights.adapter is None:
        raise InputError(
            f"{weights.source or 'the weights'} hold no adapter to write as peft's; train a run "
            "with config.lora.rank, or leave out --format"
        )
    config, kind = weights.config, model_type(weights.config)
    if kind not in _CLASSES or not isinstance(config, ViTConfig):
        raise InputError(
            f"adapters are written for {', '.join(_CLASSES)} in transformers, not {kind}"
        )
    name, prefix = _CLASSES[kind]
    classifier = bool(weights.config.num_classes)
    inside = f"{prefix}." if classifier else ""
    tensors: Tensors = {}
    modules: list[str] = []
    for module, (a, b) in weights.adapter.pairs.items():
        for layer, own in enumerate(_modules(config, module, kind, version)):
            one = a[layer].reshape(-1, a.shape[-1]).T, b[layer].reshape(b.shape[1], -1).T
            for letter, array in zip("AB", one):
                tensors[f"{_TOP}{inside}{own}.lora_{letter}.weight"] = np.ascontiguousarray(array)
            modules.append(inside + own)
    if classifier:
        head = weights.params["head"]
        tensors[_TOP + _HEAD[0]] = np.ascontiguousarray(np.asarray(head["kernel"]).T)
        tensors[_TOP + _HEAD[1]] = np.asarray(head["bias"])
    rank = next(iter(weights.adapter.pairs.values()))[0].shape[-1]
    suffix = "ForImageClassification" if classifier else "Model"
    document = dict(
        peft_type="LORA",
        auto_mapping=dict(
            base_model_class=f"{name}{suffix}",
            parent_library=f"transformers.models.{prefix}.modeling_{prefix}",
        ),
        base_model_name_or_path=weights.run_config.get("init_from") or None,
        r=rank,
        lora_alpha=weights.adapter.alpha,
        lora_dropout=0.0,
        bias="none",
        fan_in_fan_out=False,
        inference_mode=True,
        target_modules=modules,
        modules_to_save=["classifier"] if classifier else None,
    )
    return save(path / TENSORS, tensors, {path / CONFIG: document})


def _modules(config: ViTConfig, module: str, kind: str, version: int) -> list[str]:
    """The names in transformers of one adapted projection in all layers."""
    table = HUGGINGFACE if kind == "vit" else DINOV2
    kernel, part = kernel_of(module)
    row = layout_of(kernel, parameter_shapes(config)[kernel], table)
    if row is None or (version == 5 and module.endswith("mlp/gated")):
        raise InputError(
            f"{kind} in transformers {version} has no place for an adapter of {module}"
        )
    found = []
    for tensor, index in row.tensors(QKV):
        if part is not None and index[row.counted.index("t")] != part:
            continue
        name = tensor.removesuffix(".weight")
        if config.mlp == "swiglu":
            first, second = ("weights_in", "weights_out") if version == 4 else ("", "down_proj")
            name = name.replace(".mlp.fc1", f".mlp.{first}").replace(".mlp.fc2", f".mlp.{second}")
        if version == 5:
            for pattern, replacement in _VERSION_5:
                name = re.sub(pattern, replacement, name)
            name = re.sub("^encoder.layer", "layers", name) if kind == "vit" else name
        found.append(name)
    return found
