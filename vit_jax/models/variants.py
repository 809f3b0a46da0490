"""Models by name: the paper's ViTs, hybrids and BiT ResNets (tables 1 and 6), and iGPT."""

import dataclasses
import fnmatch
import re
from typing import Any

from flax import nnx

from vit_jax.errors import InputError, unknown
from vit_jax.models.config import BiTConfig, ModelConfig
from vit_jax.models.pixels.vit import PixelViT
from vit_jax.models.resnet import BiT
from vit_jax.models.vit import ViT
from vit_jax.models.vit_config import ViTConfig
from vit_jax.options import defaults, names_with
from vit_jax.schema import check_given

# Width, depth, MLP width, heads: table 1; Ti and S are from 2106.10270, g and G from 2106.04560.
# M is DeiT-III's (2204.07118); So400m is from 2305.13035, S+, H+ and 7B from DINOv3
# (2508.10104), gopt from SigLIP 2 (2502.14786), Giant2 from DINOv2 (2304.07193); the rest are
# timm's.
VARIANTS: dict[str, dict[str, Any]] = {
    "Ti": dict(width=192, depth=12, mlp_dim=768, num_heads=3),
    "S": dict(width=384, depth=12, mlp_dim=1536, num_heads=6),
    "B": dict(width=768, depth=12, mlp_dim=3072, num_heads=12),
    "L": dict(width=1024, depth=24, mlp_dim=4096, num_heads=16),
    "H": dict(width=1280, depth=32, mlp_dim=5120, num_heads=16),
    "g": dict(width=1408, depth=40, mlp_dim=6144, num_heads=16),
    "G": dict(width=1664, depth=48, mlp_dim=8192, num_heads=16),
    "M": dict(width=512, depth=12, mlp_dim=2048, num_heads=8),
    "S+": dict(width=384, depth=12, mlp_dim=1536, num_heads=6, mlp="swiglu"),
    "H+": dict(width=1280, depth=32, mlp_dim=5120, num_heads=20, mlp="swiglu"),
    "7B": dict(width=4096, depth=40, mlp_dim=8192, num_heads=32, mlp="swiglu"),
    "Giant2": dict(width=1536, depth=40, mlp_dim=4096, num_heads=24, mlp="swiglu"),
    "gopt": dict(width=1536, depth=40, mlp_dim=6144, num_heads=16),
    "So400m": dict(width=1152, depth=27, mlp_dim=4304, num_heads=16),
    "So150m": dict(width=896, depth=18, mlp_dim=2304, num_heads=14),
    "So150m2": dict(width=832, depth=21, mlp_dim=2176, num_heads=13),
    "Wee": dict(width=256, depth=14, mlp_dim=1280, num_heads=4),
    "Little": dict(width=320, depth=14, mlp_dim=1792, num_heads=5),
    "MediumD": dict(width=512, depth=20, mlp_dim=2048, num_heads=8),
    "Betwixt": dict(width=640, depth=12, mlp_dim=2560, num_heads=10),
}
# Patch sizes that `list_models` shows; names with any other patch size are valid too.
PATCHES = {
    "Ti": (16,),
    "S": (16, 32),
    "B": (8, 16, 32),
    "L": (16, 32),
    "H": (14,),
    "g": (14,),
    "G": (14,),
    "M": (16,),
    "S+": (16,),
    "H+": (16,),
    "7B": (16,),
    "Giant2": (14,),
    "gopt": (16,),
    "So400m": (14, 16),
    "So150m": (16,),
    "So150m2": (16,),
    "Wee": (16,),
    "Little": (16,),
    "MediumD": (16,),
    "Betwixt": (16,),
}
# Units of each stage (1912.11370); R26 is from 2106.10270.
RESNETS = {
    26: (2, 2, 2, 2),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
HYBRIDS = (
    "R+ViT-Ti/16",
    "R26+ViT-S/32",
    "R26+ViT-B/32",
    "R50+ViT-B/16",
    "R50+ViT-B/32",
    "R50+ViT-L/16",
    "R50+ViT-L/32",
)
AXIAL = ("Axial-ViT-B/16", "Axial-ViT-B/32")  # figure 13
# Sizes of iGPT (Chen et al. 2020, section 3.3): pixels of 32 x 32 images, 512 colours.
IGPTS: dict[str, dict[str, int]] = {
    "S": dict(width=512, depth=24, mlp_dim=2048, num_heads=8),
    "M": dict(width=1024, depth=36, mlp_dim=4096, num_heads=8),
    "L": dict(width=1536, depth=48, mlp_dim=6144, num_heads=16),
}
# What all of them have in common; without biases, as in the original code.
IGPT: dict[str, Any] = dict(
    patch_size=(1, 1),
    image_size=(32, 32),
    palette=512,
    color_head=True,
    attention_kind="causal",
    head="gap",
    norm="rms",
    norm_eps=1e-5,
    gelu="quick",
    qkv_bias="none",
    out_bias=False,
    mlp_bias=False,
    patch_bias=False,
    classifier_bias=False,
    posemb_std=0.01,
)
BITS = tuple(
    f"BiT-R{size}"
    for size in ("50x1", "50x2", "50x3", "101x1", "101x3", "152x1", "152x2", "152x4", "200x3")
)
_VIT = re.compile(
    r"(?:(?P<axial>axial[-_]?)?vit[-_]?|r(?P<depth>\d*)(?:x(?P<width>\d+))?[-_+](?:vit[-_]?)?)"
    r"(?P<size>" + "|".join(map(re.escape, VARIANTS)) + r")[-_/]?(?P<patch>\d+)",
    re.IGNORECASE,
)
_IGPT = re.compile(r"igpt[-_]?(?P<size>[sml])", re.IGNORECASE)
_BIT = re.compile(r"bit[-_]?r(?P<depth>\d+)x(?P<width>\d+)", re.IGNORECASE)


def list_models(pattern: str = "*") -> list[str]:
    """Names of models that match a shell pattern such as "ViT-*/16" or "r50*"."""
    names = [f"ViT-{size}/{patch}" for size, patches in PATCHES.items() for patch in patches]
    pattern = pattern.lower()
    names += [*HYBRIDS, *AXIAL, *(f"iGPT-{size}" for size in IGPTS), *BITS]
    return [name for name in names if fnmatch.fnmatchcase(name.lower(), pattern)]


def canonical_name(name: str) -> str:
    """The paper's spelling of a name: `vit_b16` -> `ViT-B/16`.

    Case is ignored except in `g` and `G`.

    Raises:
      InputError: no such model; names the nearest.
    """
    return _parse(name)[0]


def _parse(name: str) -> tuple[str, dict[str, Any]]:
    """A model's canonical name and the fields of its configuration."""
    if pixels := _IGPT.fullmatch(name):
        size = pixels["size"].upper()
        return f"iGPT-{size}", IGPT | IGPTS[size]
    vit, bit = _VIT.fullmatch(name), _BIT.fullmatch(name)
    match = vit or bit
    if not match:
        raise unknown("model", name, list_models())
    depth, width = match["depth"], int(match["width"] or 1)
    if depth and int(depth) not in RESNETS:
        raise unknown("model", name, list_models())
    if bit:
        fields = dict(resnet_stages=RESNETS[int(depth)], resnet_width=width)
        return f"BiT-R{int(depth)}x{width}", fields
    by_lower = {variant.lower(): variant for variant in VARIANTS if variant != "G"}
    size = "G" if match["size"] == "G" else by_lower[match["size"].lower()]
    patch = int(match["patch"])
    if patch < 1:
        raise InputError(f"model {name!r}: the patch size must be at least 1")
    if depth is None:
        fields = dict(VARIANTS[size], patch_size=patch)
        if match["axial"]:
            return f"Axial-ViT-{size}/{patch}", dict(fields, attention_kind="axial", head="gap")
        return f"ViT-{size}/{patch}", fields
    resnet = f"R{depth}x{width}" if width > 1 else f"R{depth}"
    canonical = f"{resnet}+ViT-{size}/{patch}"
    return canonical, dict(VARIANTS[size], resnet_width=width, **_hybrid(depth, patch, name))


def _hybrid(depth: str, patch: int, name: str) -> dict[str, Any]:
    """Stages of a hybrid's stem and the patch size on its last map (section 4.1).

    /16 moves the last stage's units into the stage before, which has stride 16. "R", the
    root alone, has stride 4; its /16 means 8x8 patches, a true stride of 32.
    """
    if not depth and patch % 2 == 0:
        return dict(resnet_stages=(), patch_size=patch // 2)
    if not depth or patch % 16:
        raise InputError(f"model {name!r}: the patch size of a hybrid is a multiple of 16")
    *stages, third, fourth = RESNETS[int(depth)]
    if patch % 32 == 0:
        return dict(resnet_stages=(*stages, third, fourth), patch_size=patch // 32)
    return dict(resnet_stages=(*stages, third + fourth), patch_size=patch // 16)


def model_config(name: str, **options: Any) -> ViTConfig | BiTConfig:
    """The full configuration of a named model; options that are None are ignored.

    Args:
      name: name of a model; see `list_models`.
      **options: fields of `ViTConfig` or `BiTConfig`; image_size and patch_size may be
        an int or (height, width), pre_logits may be -1: the model's width. Fields of the
        other kind of model are accepted as long as they keep their defaults.

    Raises:
      InputError: an unknown model or option, or options that do not fit each other.
    """
    check_given(name, "name", str)
    name, fields = _parse(name)
    kind: type[BiTConfig] | type[ViTConfig] = BiTConfig if name.startswith("BiT") else ViTConfig
    return _complete(kind, name, fields, _renamed(options))


def derived_config(
    base: ModelConfig, name: str | None = None, **options: Any
) -> ViTConfig | BiTConfig:
    """The configuration of a model that starts from the weights of another.

    Args:
      base: configuration of the model that the weights belong to; options of the network
        that are not given are taken from it.
      name: name of a model; see `list_models`. None, or the nearest name of `base`: as `base`.
      **options: options as in `model_config`.

    Raises:
      InputError: as in `model_config`.
    """
    kind = ViTConfig if isinstance(base, ViTConfig) else BiTConfig
    stored = names_with(kind, "structure", "network", "computation")
    own = {field: getattr(base, field) for field in stored}
    nearest = identify(base)[0]
    if name is None or canonical_name(name) == nearest:
        return _complete(kind, nearest, own, _renamed(options))
    named = model_config(name)
    if not isinstance(named, kind):
        return model_config(name, **options)
    canonical, fields = _parse(name)
    return _complete(kind, canonical, own | fields, _renamed(options))


def _renamed(options: dict[str, Any]) -> dict[str, Any]:
    """Options under today's names; earlier versions wrote `axial` and `masked`."""
    options = dict(options)
    if options.pop("axial", None):
        options["attention_kind"] = "axial"
    options.pop("masked", None)  # the task's, since then
    return options


def _complete(
    kind: type[BiTConfig] | type[ViTConfig],
    name: str,
    fields: dict[str, Any],
    options: dict[str, Any],
) -> ViTConfig | BiTConfig:
    """A configuration from a name's fields and from options, which take precedence."""
    fields = dict(fields)
    other: type[BiTConfig] | type[ViTConfig] = ViTConfig if kind is BiTConfig else BiTConfig
    known = {field.name for field in dataclasses.fields(kind)}
    foreign = dict.fromkeys(field.name for field in dataclasses.fields(other)) | defaults(other)
    for option, value in options.items():
        if option not in known and option not in foreign:
            raise unknown("model option", option, {*known, *foreign})
        if option in known and value is not None:
            fields[option] = value
        if option not in known and value not in (None, foreign[option]):
            raise InputError(f"model.{option} does not apply to {name}; leave it at its default")
    for option in ("image_size", "patch_size"):
        if option in fields:
            fields[option] = _pair(option, fields[option])
    if fields.get("resnet_stages") is not None:
        fields["resnet_stages"] = _stages(fields["resnet_stages"])
    if fields.get("pre_logits") == -1:
        fields["pre_logits"] = fields["width"]
    return kind(**fields)


def identify(config: ModelConfig) -> tuple[str, dict[str, Any]]:
    """The name nearest to a configuration and the options in which it differs.

    `model_config(name, **options)` gives the configuration back.
    """
    if isinstance(config, ViTConfig) and config.palette:
        name = f"iGPT-{_variant(config, IGPTS)}"
    elif isinstance(config, ViTConfig):
        axial = config.attention_kind == "axial" and config.resnet_stages is None
        prefix = "Axial-" if axial else ""
        size = _variant(config, VARIANTS)
        name = f"{prefix}{_resnet_name(config)}ViT-{size}/{_nominal_patch(config)}"
    else:
        name = f"BiT-R{_resnet_depth(config.stages)}x{config.resnet_width}"
    nearest = dataclasses.asdict(model_config(name))
    fields = dataclasses.asdict(config)
    return name, {key: value for key, value in fields.items() if value != nearest[key]}


def _resnet_depth(stages: tuple[int, ...]) -> int:
    """The nominal depth by the total of units, as /16 hybrids spread them differently."""
    return min(RESNETS, key=lambda depth: abs(sum(RESNETS[depth]) - sum(stages)))


def _resnet_name(config: ViTConfig) -> str:
    if config.resnet_stages is None:
        return ""
    depth = _resnet_depth(config.resnet_stages) if config.resnet_stages else ""
    return f"R{depth}" + (f"x{config.resnet_width}+" if config.resnet_width > 1 else "+")


def _variant(config: ViTConfig, sizes: dict[str, dict[str, Any]]) -> str:
    """The size with most equal width, depth, MLP width and heads; ties: the nearest width."""

    def likeness(size):
        shared = sum(getattr(config, key) == value for key, value in sizes[size].items())
        return shared, -abs(sizes[size]["width"] - config.width)

    return max(sizes, key=likeness)


def _nominal_patch(config: ViTConfig) -> int:
    """The patch size in the name; see `_hybrid`."""
    stages = config.resnet_stages
    scale = 1 if stages is None else 2 if not stages else 32 if len(stages) == 4 else 16
    return scale * config.patch_size[0]


def _pair(option: str, value: Any) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2 or not all(isinstance(size, int) and size > 0 for size in pair):
        raise InputError(f"model.{option} is {value!r}; give pixels or (height, width)")
    return pair


def _stages(value: Any) -> tuple[int, ...]:
    if not isinstance(value, (tuple, list)) or not all(isinstance(units, int) for units in value):
        raise InputError(
            f"model.resnet_stages is {value!r}; give the units of each stage, as (3, 4, 9)"
        )
    return tuple(value)


def create_model(name: str, *, rngs: nnx.Rngs | None = None, **options: Any) -> ViT | BiT:
    """A freshly initialised model by name.

    Args:
      name: name such as "ViT-B/16"; `vit_b16` and lower case are valid too.
      rngs: random streams of the initialisation; None: seed 0.
      **options: options of `model_config`; commonly num_classes, image_size, head, dtype.

    Returns:
      An nnx.Module: `model(images)` gives logits.

    Raises:
      InputError: an unknown model or option, or images that do not divide into patches.

    Example:
        >>> import jax.numpy as jnp
        >>> model = vit_jax.create_model("ViT-Ti/16", num_classes=10, image_size=32)
        >>> images = jnp.zeros((2, 32, 32, 3))  # (batch, height, width, channels)
        >>> model(images).shape
        (2, 10)
        >>> logits, out = model(images, return_intermediates=True)
        >>> out["block11/attention"].shape  # (batch, heads, tokens, tokens)
        (2, 3, 5, 5)
    """
    config = model_config(name, **options)
    config.check_patches()
    return build_model(config, rngs or nnx.Rngs(0))


def build_model(config: ModelConfig, rngs: nnx.Rngs) -> ViT | BiT:
    """The module that a configuration describes."""
    if isinstance(config, ViTConfig):
        return PixelViT(config, rngs=rngs) if config.palette else ViT(config, rngs=rngs)
    if isinstance(config, BiTConfig):
        return BiT(config, rngs=rngs)
    raise TypeError(f"no model is built from a {type(config).__name__}")
