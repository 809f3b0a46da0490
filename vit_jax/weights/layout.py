"""Names and axes of our parameters in another format.

Our parameters have named axes, one letter each: see `OURS`. A format is a table from our
path to a template of its names and the order of the same letters in its tensors:

    "blocks/attention/qkv/kernel": ("blocks.{l}.attn.qkv.weight", "(thk)d")

says that the linear weights (3 * heads * head width, width) of all layers l make our
(layer, width, 3, heads, head width). Letters that a tensor lacks, here l, are counted out
in the names; axes in parentheses are one; "1" is an axis of size one.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

Table = dict[str, tuple[str, str]]
Shape = tuple[int, ...]

# d width, l layer, n positions, r registers, p q patch, i channels of what is cut into
# patches; h heads, k head width, t query/key/value, u key/value, j query/value; m MLP width,
# g gate/value; w offsets of a position bias, v its hidden width, c coordinates, s frequencies;
# C colours of a palette; f pooled features, e pre_logits, z what the classifier sees, o classes;
# a b x y a convolution's height, width, inputs and outputs. The attention pooling has its own
# heads H K and MLP width M.
OURS = {
    "embedding/kernel": "pqid",
    "embedding/bias": "d",
    "embedding/palette": "Ci",
    "embedding/table": "Cd",
    "embedding/start": "d",
    "cls": "11d",
    "dist": "11d",
    "registers": "1rd",
    "posemb/embedding": "1nd",
    "patch_norm/scale": "d",
    "patch_norm/bias": "d",
    "norm_pre/scale": "d",
    "norm_pre/bias": "d",
    "position_bias/table": "wh",
    "position_bias/fc1/kernel": "cv",
    "position_bias/fc1/bias": "v",
    "position_bias/fc2/kernel": "vh",
    "position_bias/fc2/bias": "h",
    "blocks/position_bias/table": "lwh",
    "blocks/position_bias/fc1/kernel": "lcv",
    "blocks/position_bias/fc1/bias": "lv",
    "blocks/position_bias/fc2/kernel": "lvh",
    "blocks/position_bias/fc2/bias": "lh",
    "blocks/rotary/frequencies": "lchs",
    "blocks/norm1/scale": "ld",
    "blocks/norm1/bias": "ld",
    "blocks/attention/qkv/kernel": "ldthk",
    "blocks/attention/qkv/bias": "lthk",
    "blocks/attention/query_value/bias": "ljhk",
    "blocks/attention/query_norm/scale": "lk",
    "blocks/attention/query_norm/bias": "lk",
    "blocks/attention/key_norm/scale": "lk",
    "blocks/attention/key_norm/bias": "lk",
    "blocks/attention/norm/scale": "ld",
    "blocks/attention/norm/bias": "ld",
    "blocks/attention/out/kernel": "lhkd",
    "blocks/attention/out/bias": "ld",
    "blocks/scale1": "ld",
    "blocks/norm2/scale": "ld",
    "blocks/norm2/bias": "ld",
    "blocks/mlp/fc1/kernel": "ldm",
    "blocks/mlp/fc1/bias": "lm",
    "blocks/mlp/gated/kernel": "ldgm",
    "blocks/mlp/gated/bias": "lgm",
    "blocks/mlp/norm/scale": "lm",
    "blocks/mlp/norm/bias": "lm",
    "blocks/mlp/fc2/kernel": "lmd",
    "blocks/mlp/fc2/bias": "ld",
    "blocks/scale2": "ld",
    "norm/scale": "d",
    "norm/bias": "d",
    "map_head/probe": "11d",
    "map_head/query/kernel": "dHK",
    "map_head/query/bias": "HK",
    "map_head/key_value/kernel": "duHK",
    "map_head/key_value/bias": "uHK",
    "map_head/out/kernel": "HKd",
    "map_head/out/bias": "d",
    "map_head/norm/scale": "d",
    "map_head/norm/bias": "d",
    "map_head/mlp/fc1/kernel": "dM",
    "map_head/mlp/fc1/bias": "M",
    "map_head/mlp/fc2/kernel": "Md",
    "map_head/mlp/fc2/bias": "d",
    "projection/kernel": "fe",
    "pre_logits/kernel": "fe",
    "pre_logits/bias": "e",
    "color_head/kernel": "dC",
    "head/kernel": "zo",
    "head/bias": "o",
    "head_dist/kernel": "do",
    "head_dist/bias": "o",
}
# The branches of a branched block have the parameters of a block each.
MAX_BRANCHES = 4
for _row, _axes in list(OURS.items()):
    for _i in range(MAX_BRANCHES):
        if _row.startswith("blocks/") and not re.match("blocks/(rotary|position_bias)/", _row):
            OURS[_row.replace("blocks/", f"blocks/branch{_i}/", 1)] = _axes
# The ResNet of a hybrid ("stem") or a BiT ("resnet"); stages {s} and units {c} count from 1.
for _root in ("stem", "resnet"):
    OURS[f"{_root}/conv_root/kernel"] = "abxy"
    for _conv in ("conv1", "conv2", "conv3", "conv_proj"):
        OURS[f"{_root}/block{{s}}/unit{{c}}/{_conv}/kernel"] = "abxy"
    for _norm in ("gn1", "gn2", "gn3", "gn_proj"):
        OURS[f"{_root}/block{{s}}/unit{{c}}/{_norm}/scale"] = "y"
        OURS[f"{_root}/block{{s}}/unit{{c}}/{_norm}/bias"] = "y"
    for _norm in ("gn_root", "norm"):
        OURS[f"{_root}/{_norm}/scale"] = "y"
        OURS[f"{_root}/{_norm}/bias"] = "y"


def groups(axes: str) -> list[str]:
    """The letters of each axis: "(thk)d" -> ["thk", "d"]."""
    return [match[1] or match[0] for match in re.finditer(r"\((\w+)\)|\w", axes)]


@dataclasses.dataclass(frozen=True)
class Layout:
    """One of our parameters in another format."""

    axes: str  # ours, e.g. "ldthk"
    template: str  # of their names, e.g. "blocks.{l}.attn.qkv.weight"
    their_axes: str  # e.g. "(thk)d"
    shape: Shape  # ours

    @property
    def sizes(self) -> dict[str, int]:
        """Length of each of our axes by letter."""
        return {"1": 1} | dict(zip(self.axes, self.shape))

    @property
    def their_shape(self) -> Shape:
        """Shape of each tensor of the format."""
        return tuple(
            math.prod(self.sizes[letter] for letter in group) for group in groups(self.their_axes)
        )

    @property
    def counted(self) -> str:
        """Letters that are counted in the names."""
        return "".join(a for a in self.axes if a != "1" and a not in self.their_axes)

    def tensors(self, words: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, tuple[int, ...]]]:
        """The name of each tensor of the format, and the indices of the counted axes it holds.

        Args:
          words: letter -> the words that stand for its indices in names; default: the number.
        """
        for index in itertools.product(*(range(self.sizes[letter]) for letter in self.counted)):
            filled = {
                letter: words[letter][i] if letter in words else i
                for letter, i in zip(self.counted, index)
            }
            yield self.template.format(**filled), index

    def to_ours(self, tensors: Mapping[str, np.ndarray], words: Mapping) -> np.ndarray:
        """Combines tensors of the format into our array in float32."""
        result = np.empty(self.shape, np.float32)
        for name, index in self.tensors(words):
            array = np.asarray(tensors[name])
            array = array.reshape([self.sizes[letter] for letter in self._letters])
            order = [self._letters.index(a) for a in self._rest]
            self._part(result, index)[...] = array.transpose(order)
        return result

    def to_theirs(self, array: np.ndarray, words: Mapping) -> dict[str, np.ndarray]:
        """Splits our array into the format's tensors, by name."""
        order = [self._rest.index(a) for a in self._letters]
        return {
            name: np.ascontiguousarray(
                self._part(np.asarray(array), index).transpose(order).reshape(self.their_shape)
            )
            for name, index in self.tensors(words)
        }

    @property
    def _letters(self) -> str:
        """Letters of the format's tensors in their order, without axes of size one."""
        return "".join(groups(self.their_axes)).replace("1", "")

    @property
    def _rest(self) -> str:
        """The same letters in the order of our array."""
        return "".join(a for a in self.axes if a != "1" and a not in self.counted)

    def _part(self, array: np.ndarray, index: tuple[int, ...]) -> np.ndarray:
        """The part of our array that one tensor holds, as a view without axes of size one."""
        at = dict(zip(self.counted, index))
        return array[tuple(0 if a == "1" else at.get(a, slice(None)) for a in self.axes)]


def match(path: str, table: Mapping) -> tuple[str, dict[str, int]] | None:
    """The row of a table that describes one of our paths, and its stage and unit."""
    if path in table:
        return path, {}
    generic = re.sub(r"block\d+/unit\d+", "block{s}/unit{c}", path)
    found = re.search(r"block(\d+)/unit(\d+)", path)
    if generic in table and found:
        return generic, dict(s=int(found[1]), c=int(found[2]))
    return None


def place(template: str, numbers: Mapping[str, int]) -> str:
    """A template with stage {s}, unit {c} filled in; {s0}, {c0} count from zero, {cc} is 01."""
    for letter, number in numbers.items():
        template = template.replace(f"{{{letter}}}", str(number))
        template = template.replace(f"{{{letter}0}}", str(number - 1))
        template = template.replace(f"{{{letter}{letter}}}", f"{number:02}")
    return template


def layout_of(path: str, shape: Shape, table: Table) -> Layout | None:
    """The layout of one of our parameters; None if the format has no place for it."""
    found = match(path, table)
    if found is None:
        return None
    row, numbers = found
    template, their_axes = table[row]
    return Layout(OURS[row], place(template, numbers), their_axes, tuple(shape))
