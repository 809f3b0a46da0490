"""Exports the inference function as ONNX, which runs without JAX and without this package.

The program takes `images`, bytes (batch, height, width, 3) in RGB, and returns `logits` (batch,
classes) in float32. Resizing, cropping and normalisation are inside, so that images may have any
size, if all of a batch have the same; labels, preprocessing and model are in the metadata. The
network is translated by jax2onnx.
"""

import contextlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.data.ops import naflex
from vit_jax.errors import InputError
from vit_jax.models.naflex import pack
from vit_jax.text import first_line
from vit_jax.weights.description import own_description
from vit_jax.weights.formats.programs import MAX_BYTES, inference
from vit_jax.weights.record import Weights
from vit_jax.weights.write import weight_format

INSTALL = "pip install 'vit_jax[onnx]'"
TOLERANCE = 1e-4  # of logits, as a share of the largest one above 1
METHODS: dict[str, dict[str, Any]] = {
    "bilinear": dict(mode="linear"),
    "bicubic": dict(mode="cubic", cubic_coeff_a=-0.5),
    "nearest": dict(mode="nearest", nearest_mode="round_prefer_ceil"),
    "area": dict(mode="linear"),  # with antialias, the nearest that ONNX has
}
SAMPLES = 2  # images of the check


@weight_format("onnx", ".onnx")
def write_onnx(weights: Weights, path: Path) -> list[str]:
    """Writes the program and compares its logits with those of JAX.

    Raises:
      InputError: a library is missing, the weights are too large, the network has an operation
        that jax2onnx cannot translate, or ONNX Runtime computes other logits.
    """
    onnx, to_onnx, runtime = _libraries()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(weights.params))
    if size >= MAX_BYTES:
        raise InputError(
            f"{path}: an ONNX file holds less than 2 GiB, these weights take "
            f"{size / 2**30:.1f}; write them as .npz or safetensors"
        )
    function = _function(weights)
    (batch,) = jax.export.symbolic_shape("batch")
    prepared = jax.ShapeDtypeStruct((batch, *weights.config.input_size, 3), jnp.uint8)
    names = dict(input_names=["prepared"], output_names=["logits"])
    try:
        # These report plugins for libraries that are not here, and shapes that are not kept.
        with _quiet("jax2onnx"), _quiet("onnx_ir"):
            program = to_onnx(function, [prepared], model_name="vit_jax", **names)
    except Exception as error:  # of any kind, from another library
        raise InputError(
            f"{path}: jax2onnx cannot translate this network ({first_line(error)}); "
            "write .stablehlo"
        ) from error
    difference = _compared(weights, function, program, runtime)
    before, lines = preprocessing(weights, program, onnx)
    io_map = [("uint8_prepared", "prepared")]
    whole = onnx.compose.merge_models(before, program, io_map=io_map, name="vit_jax")
    about = own_description(weights)
    properties = dict(
        labels=json.dumps(weights.labels),
        preprocessing=weights.pp,
        multi_label=json.dumps(weights.multi_label),
        model=json.dumps(about["model"]),
    )
    onnx.helper.set_model_props(whole, properties)
    onnx.checker.check_model(whole)
    path.write_bytes(whole.SerializeToString())
    lines.append(f"the logits of ONNX Runtime differ from JAX's by {difference:.1g} at most")
    return [f"wrote {path}", *lines]


def _function(weights: Weights) -> Any:
    params = jax.tree.map(np.asarray, weights.params)
    logits = inference(weights)
    return lambda images: logits(params, images)


def _libraries() -> tuple[Any, Any, Any]:
    """The modules onnx and onnxruntime, and the function jax2onnx.to_onnx between them."""
    try:
        import onnx
        import onnx.compose
        import onnxruntime
        from jax2onnx import to_onnx
    except ImportError as error:
        raise InputError(f"ONNX needs libraries: {error}; {INSTALL}") from error
    return onnx, to_onnx, onnxruntime


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


class _Graph:
    """Nodes of an ONNX graph on one image tensor after another."""

    def __init__(self, onnx: Any):
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operation: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node with one output; returns the output's name."""
        name = f"uint8_{len(self.nodes)}_{operation.lower()}"
        made = self.onnx.helper.make_node(operation, inputs, [name], **attributes)
        self.nodes.append(made)
        return name

    def constant(self, values: Sequence[Any] | Any, dtype: Any = np.int64) -> str:
        """Adds a constant; returns its name."""
        name = f"uint8_constant{len(self.constants)}"
        array = np.asarray(values, dtype)
        self.constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def sides(self, images: str) -> str:
        """Height and width of images: int64 (2,)."""
        return self.add("Slice", self.add("Shape", images), self.constant([1]), self.constant([3]))

    def resized(self, images: str, sides: str, method: str, antialias: bool) -> str:
        """Images resized to `sides`, as bytes."""
        types = self.onnx.TensorProto
        how = METHODS[method]
        smooth = antialias or method == "area"
        if method != "nearest":
            how = how | dict(antialias=int(smooth), exclude_outside=int(smooth))
        whole = self.add("Shape", images)
        count = self.add("Slice", whole, self.constant([0]), self.constant([1]))
        size = self.add("Concat", count, self.constant([3]), sides, axis=0)
        x = self.add("Transpose", images, perm=[0, 3, 1, 2])
        rounds = method == "nearest" or smooth  # to bytes, between the axes as Pillow does
        x = x if rounds else self.add("Cast", x, to=types.FLOAT)
        x = self.add("Resize", x, "", "", size, coordinate_transformation_mode="half_pixel", **how)
        if not rounds:
            limits = (self.constant(0, np.float32), self.constant(255, np.float32))
            half = self.constant(0.5, np.float32)
            x = self.add(
                "Cast", self.add("Add", self.add("Clip", x, *limits), half), to=types.UINT8
            )
        return self.add("Transpose", x, perm=[0, 2, 3, 1])

    def covering(self, images: str, shape: tuple[int, int], truncate: bool) -> str:
        """The sides of images that are resized until they just cover `shape`."""
        types = self.onnx.TensorProto
        sides = self.sides(images)
        wanted = self.constant(shape, np.float64)
        scales = self.add("Div", wanted, self.add("Cast", sides, to=types.DOUBLE))
        if truncate:
            first = self.add("ArgMax", scales, axis=0, keepdims=1)
            target = self.add("Gather", self.constant(shape), first)
            own = self.add("Gather", sides, first)
            return self.add("Div", self.add("Mul", target, sides), own)
        scale = self.add("ReduceMax", scales, keepdims=1)
        exact = self.add("Mul", self.add("Cast", sides, to=types.DOUBLE), scale)
        return self.add("Cast", self.add("Round", exact), to=types.INT64)

    def cropped(self, images: str, shape: tuple[int, int], nearest: bool) -> str:
        """The middle of images."""
        types = self.onnx.TensorProto
        size = self.constant(shape)
        room = self.add("Sub", self.sides(images), size)
        two = self.constant(2)
        corner = self.add("Div", room, two)
        if nearest:  # half to even
            exact = self.add("Div", self.add("Cast", room, to=types.DOUBLE),
                             self.constant(2, np.float64))  # fmt: skip
            corner = self.add("Cast", self.add("Round", exact), to=types.INT64)
        end = self.add("Add", corner, size)
        return self.add("Slice", images, corner, end, self.constant([1, 2]))

    def grid(self, images: str, patches: int, patch: int) -> str:
        """Rows and columns of `data.ops.naflex.Naflex.grid`, by the same search: int64 (2,)."""
        types = self.onnx.TensorProto
        sides = self.add("Cast", self.sides(images), to=types.DOUBLE)
        one, half, side = (self.constant(value, np.float64) for value in (1.0, 0.5, patch))
        most = self.constant(patches, np.float64)
        low, high = (
            self.constant(value, np.float64) for value in (naflex.SMALLEST, naflex.LARGEST)
        )

        def counts(scale: str) -> str:
            exact = self.add("Div", self.add("Mul", sides, scale), side)
            return self.add("Max", self.add("Ceil", exact), one)

        for _ in range(naflex.halvings()):
            scale = self.add("Mul", self.add("Add", low, high), half)
            total = self.add("ReduceProd", counts(scale), keepdims=0)
            fits = self.add("LessOrEqual", total, most)
            low, high = self.add("Where", fits, scale, low), self.add("Where", fits, high, scale)
        return self.add("Cast", counts(low), to=types.INT64)

    def packed(self, images: str, op: naflex.Naflex) -> str:
        """Images as `op` packs them, each in the same grid."""
        types = self.onnx.TensorProto
        grid, side = self.grid(images, op.patches, op.patch), self.constant([op.patch])
        x = self.resized(images, self.add("Mul", grid, side), op.method, True)
        rows, columns = (
            self.add("Slice", grid, self.constant([i]), self.constant([i + 1])) for i in range(2)
        )
        zero, three = self.constant([0]), self.constant([3])  # 0: as before
        apart = self.add("Concat", zero, rows, side, columns, side, three, axis=0)
        x = self.add("Transpose", self.add("Reshape", x, apart), perm=[0, 1, 3, 2, 4, 5])
        height = self.add("Mul", self.add("Mul", rows, columns), side)
        below = self.add("Concat", zero, height, side, three, axis=0)
        x = self.add("Reshape", x, below)
        missing = self.add("Sub", self.constant([op.patches * op.patch]), height)
        before = self.constant([0, 1, 0, 0, 0])
        pads = self.add("Concat", before, missing, self.constant([0, 0]), axis=0)
        x = self.add("Pad", x, pads, self.constant(0, np.uint8))
        # The first row holds the grid, two bytes for each number, the lower first.
        base = self.constant([256])
        numbers = (rows, columns)
        halves = [self.add(how, n, base) for n in numbers for how in ("Mod", "Div")]
        header = self.add("Concat", *halves, self.constant([0] * (3 * op.patch - 4)), axis=0)
        header = self.add("Reshape", header, self.constant([1, 1, op.patch, 3]))
        header = self.add("Cast", header, to=types.UINT8)
        return self.add(
            "Add", x, self.add("Pad", header, self._below(op), self.constant(0, np.uint8))
        )

    def _below(self, op: naflex.Naflex) -> str:
        """The padding of a packed form's first row to the whole form."""
        return self.constant([0, 0, 0, 0, 0, op.patches * op.patch, 0, 0])

    def padded(self, images: str, padding: int) -> str:
        """Images with black pixels on every side."""
        pads = self.constant([0, padding, padding, 0] * 2)
        return self.add("Pad", images, pads, self.constant(0, np.uint8))


def preprocessing(weights: Weights, program: Any, onnx: Any) -> tuple[Any, list[str]]:
    """A program from `images` to prepared ones, and lines about what differs.

    Args:
      weights: weights, whose `pp` is translated.
      program: the program of the network, whose versions it gets.
      onnx: the module.
    """
    from vit_jax.data import parse
    from vit_jax.data.ops.geometry import CentralCrop, Pad, Resize, ResizeSmall

    ops = parse(weights.pp).deterministic().ops
    graph, lines = _Graph(onnx), []
    height, width = weights.config.input_size
    known = all(
        isinstance(op, (Resize, ResizeSmall, CentralCrop, Pad, naflex.Naflex)) for op in ops
    )
    # ONNX Runtime shrinks by bicubic interpolation only with antialias.
    known &= not any(
        isinstance(op, (Resize, ResizeSmall)) and op.method == "bicubic" and not op.antialias
        for op in ops
    )
    x = "images"
    for op in ops if known else ():
        if isinstance(op, Resize):
            x = graph.resized(x, graph.constant(op.shape), op.method, op.antialias)
        elif isinstance(op, ResizeSmall):
            sides = graph.covering(x, op.shape, op.truncate)
            x = graph.resized(x, sides, op.method, op.antialias)
        elif isinstance(op, CentralCrop):
            x = graph.cropped(x, op.shape, op.nearest)
        elif isinstance(op, Pad):
            x = graph.padded(x, op.padding)
        elif isinstance(op, naflex.Naflex):
            x = graph.packed(x, op)
        if isinstance(op, (Resize, ResizeSmall)) and op.method == "area":
            lines.append(
                f"{op}: ONNX has no area interpolation, bilinear with antialias is written"
            )
    if not known:
        lines.append(
            f"resizing is not inside, as ONNX Runtime lacks a part of {weights.pp}: images must "
            f"come prepared, {height} x {width} pixels"
        )
    shape: list[str | int] = ["height", "width"] if known and ops else [height, width]
    types = onnx.TensorProto
    graph.nodes.append(onnx.helper.make_node("Identity", [x], ["uint8_prepared"]))
    make = onnx.helper.make_tensor_value_info
    built = onnx.helper.make_graph(
        graph.nodes,
        "preprocessing",
        [make("images", types.UINT8, ["batch", *shape, 3])],
        [make("uint8_prepared", types.UINT8, ["batch", height, width, 3])],
        graph.constants,
    )
    model = onnx.helper.make_model(
        built, opset_imports=list(program.opset_import), ir_version=program.ir_version
    )
    return model, lines


def _compared(weights: Weights, function: Any, program: Any, runtime: Any) -> float:
    """The largest difference between the logits of ONNX Runtime and of JAX.

    Raises:
      InputError: it is above TOLERANCE.
    """
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    content = program.SerializeToString()
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    shape = (SAMPLES, *weights.config.input_size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    if length := weights.config.naflex:
        empty = np.zeros((length, *weights.config.patch, 3), np.uint8)
        images[:, 0] = pack(empty, (1, length))[0]
    expected = np.asarray(jax.jit(function)(images))
    found = session.run(["logits"], {"prepared": images})[0]
    difference = float(np.abs(found - expected).max())
    if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise InputError(
            f"the logits of ONNX Runtime differ from JAX's by {difference:.2g}; write .stablehlo"
        )
    return difference
