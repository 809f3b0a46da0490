"""Image towers of timm inside files of open_clip: `visual.trunk.*`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vit_jax.errors import InputError
from vit_jax.weights.families import FAMILIES, Recognised
from vit_jax.weights.formats.open_clip.config import NAME, opened, preprocessing
from vit_jax.weights.formats.open_clip.names import OTHER
from vit_jax.weights.formats.timm import vit as timm
from vit_jax.weights.preprocessing import Recipe

_TIMM = FAMILIES["timm ViT"]
# Options of open_clip's own tower, which say nothing about timm's.
_OWN = ("layers", "width", "head_width", "mlp_ratio", "patch_size", "image_seq_len")


def _hints(found: Recognised) -> Mapping[str, Any]:
    """Fields of the configuration, which timm's architecture gives.

    Raises:
      InputError: there is no open_clip_config.json, or it asks for another network than those
        here.
    """
    if NAME not in found.configs:
        raise InputError(
            f"{found.path} holds an image tower of timm and does not tell which; put its {NAME} "
            "beside it, and name the file open_clip_model.safetensors or "
            "open_clip_pytorch_model.bin"
        )
    model, tower, _ = opened(found)
    name = tower.take("timm_model_name", str)
    if not name:
        raise InputError(f"{tower.where}: timm_model_name is missing, the tensors are of timm")
    pool = tower.only("timm_pool", "avg", "token", "map", "")
    # Without its own projection, open_clip takes timm's classifier for one.
    tower.only("timm_proj", "linear", "none", "")
    tower.only("timm_proj_bias", False)
    tower.ignore(("act_kwargs", "norm_kwargs", *_OWN))
    arguments = tower.section("timm_model_kwargs").rest()
    height, width = tower.size("image_size") or (224, 224)
    tower.close()
    model.ignore(("embed_dim", "quick_gelu"))  # timm's towers have their own formula of GELU
    model.close()
    arguments |= dict(img_size=[height, width])
    if pool:
        arguments["global_pool"] = pool
    document = dict(
        architecture=name,
        model_args=arguments,
        pretrained_cfg=dict(input_size=[3, height, width]),
    )
    try:
        described = timm.hints(dataclasses.replace(found, configs={"config.json": document}))
    except InputError as error:
        raise InputError(str(error).replace("config.json", NAME)) from error
    result = dict(described)
    if "head.weight" in found.tensors:
        notes = tuple(result.get("notes", ()))
        result["notes"] = (*notes, "the head gives the features that are compared with texts")
    return result


def _recipe(found: Recognised) -> Recipe:
    _, tower, prepared = opened(found)
    return preprocessing(prepared, tower.size("image_size", (224, 224)))


FAMILIES.add(
    "open_clip with a tower of timm",
    dataclasses.replace(
        _TIMM,
        table=_TIMM.table | {"projection/kernel": ("visual.head.proj.weight", "ef")},
        hints=_hints,
        recipe=_recipe,
        prefixes=("visual.trunk.",),
        other=OTHER,
    ),
)
