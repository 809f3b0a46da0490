"""Rows of tables and values that several formats share."""

from vit_jax.errors import unknown
from vit_jax.models.config import ModelConfig
from vit_jax.weights.layout import MAX_BRANCHES, Table
from vit_jax.weights.write import ANY

# Names of activations -> ours.
GELU = {
    "gelu": "erf",
    "gelu_python": "erf",
    "gelu_accurate": "tanh",
    "gelu_new": "tanh",
    "gelu_pytorch_tanh": "tanh",
    "gelu_fast": "tanh",
    "gelu_tanh": "tanh",
    "quick_gelu": "quick",
}
# Of the BiT code in timm and transformers, pre-activation or not.
TORCH_RESNET = dict(resnet_norm_eps=1e-5, resnet_conv_eps=1e-8)
# Options that config.json of both can say; see `write.check_expressible`.
SIZES = dict.fromkeys(("image_size", "num_classes"), ANY)
RESNET = dict.fromkeys(("resnet_stages", "resnet_width", "resnet_norm_eps", "resnet_conv_eps"), ANY)


def gelu(name: str) -> str:
    """Our name of an activation.

    Raises:
      InputError: the activation is not a GELU.
    """
    if name not in GELU:
        raise unknown("activation", name, GELU)
    return GELU[name]


def other_epsilon(config: ModelConfig, preact: bool) -> list[str]:
    """A warning if timm and transformers standardise kernels with another epsilon.

    It matters only with pre-activation; otherwise the norm after every convolution undoes it.
    """
    if not preact or config.resnet_conv_eps == TORCH_RESNET["resnet_conv_eps"]:
        return []
    return ["timm and transformers add 1e-8 to the variance of kernels, Google's code 1e-10"]


def dense(ours: str, theirs: str, kernel: str, bias: str, *, torch: bool = True) -> Table:
    """Rows of a dense layer; `kernel` and `bias` are the axes of their tensors."""
    weight = f"{theirs}.weight" if torch else f"{theirs}/kernel"
    return {
        f"{ours}/kernel": (weight, kernel),
        f"{ours}/bias": (f"{theirs}.bias" if torch else f"{theirs}/bias", bias),
    }


def norm(ours: str, theirs: str, axis: str = "d", *, torch: bool = True) -> Table:
    """Rows of a norm."""
    scale, bias = (".weight", ".bias") if torch else ("/scale", "/bias")
    return {
        f"{ours}/scale": (theirs + scale, axis),
        f"{ours}/bias": (theirs + bias, axis),
    }


def torch_resnet(ours: str, root: str, root_norm: str, unit: str) -> Table:
    """Rows of a ResNet; `unit` is a template of a unit's name, with {s0} and {c0}."""
    block = f"{ours}/block{{s}}/unit{{c}}"
    table: Table = {f"{ours}/conv_root/kernel": (f"{root}.weight", "yxab")}
    table |= norm(f"{ours}/gn_root", root_norm, "y")
    for i in (1, 2, 3):
        table[f"{block}/conv{i}/kernel"] = (f"{unit}.conv{i}.weight", "yxab")
        table |= norm(f"{block}/gn{i}", f"{unit}.norm{i}", "y")
    table[f"{block}/conv_proj/kernel"] = (f"{unit}.downsample.conv.weight", "yxab")
    return table | norm(f"{block}/gn_proj", f"{unit}.downsample.norm", "y")


def branched(blocks: Table, theirs: str, branch: str) -> Table:
    """Rows of the branches of branched blocks.

    Args:
      blocks: rows of a sequential block.
      theirs: how the names of a block begin in these rows.
      branch: how those of the branch with number {i} begin.
    """
    return {
        row.replace("blocks/", f"blocks/branch{i}/", 1): (
            name.replace(theirs, branch.replace("{i}", str(i)), 1),
            axes,
        )
        for i in range(MAX_BRANCHES)
        for row, (name, axes) in blocks.items()
    }
