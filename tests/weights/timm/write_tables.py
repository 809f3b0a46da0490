"""Writes the tables of timm's architectures; needs timm 1.0.31.

    python tests/weights/timm/write_tables.py vit_jax/weights/formats/timm/tables

A line is as `vit_jax.weights.formats.timm.architectures` says. An architecture that is like an
earlier one is written as that one's name and the arguments that differ.
"""

import inspect
import sys
from functools import partial
from importlib import import_module
from pathlib import Path

KINDS = {
    "VisionTransformer": "vit",
    "VisionTransformerDistilled": "distilled",
    "Eva": "eva",
    "Beit": "beit",
    "VisionTransformerRelPos": "relpos",
}
SIZES = ("patch_size", "embed_dim", "depth", "num_heads")
# File -> modules of timm, and what the file's docstring calls them.
FILES = {
    "vision_transformer": (["vision_transformer"], "vision_transformer.py"),
    "eva": (["eva"], "eva.py"),
    "others": (
        ["deit", "vision_transformer_hybrid", "beit", "vision_transformer_relpos"],
        "deit.py, hybrid, beit.py, relpos, and BiT",
    ),
}
BITS = {"50x1": (3, 4, 6, 3), "50x3": (3, 4, 6, 3), "101x1": (3, 4, 23, 3)}
BITS |= {"101x3": (3, 4, 23, 3), "152x2": (3, 8, 36, 3), "152x4": (3, 8, 36, 3)}
OLD_BITS = {"152x2_bit_teacher": "152x2", "152x2_bit_teacher_384": "152x2"}
OLD_BITS |= {"50x1_bit_distilled": "50x1"}


class Captured(Exception):
    """The class and arguments with which timm would build a model."""


def capture(cls, variant, pretrained=False, **arguments):
    base = cls.__mro__[1] if cls.__name__.endswith("Distilled") else cls
    own = {name: text(each.default) for name, each in inspect.signature(base).parameters.items()}
    arguments = {name: text(value) for name, value in arguments.items() if name in own}
    raise Captured(
        cls.__name__,
        {name: arguments.get(name, own[name]) for name in SIZES}
        | {name: value for name, value in arguments.items() if value != own[name]},
    )


def text(value):
    """How the table writes an argument."""
    if isinstance(value, partial):
        import timm.layers

        if value is timm.layers.SwiGLUPacked:
            return "SwiGLUPacked"
        if "backbone" in value.keywords:
            return type(value.keywords["backbone"]).__name__
        assert value.keywords.keys() == {"eps"}, value
        return f"{value.func.__name__.lower()}({value.keywords['eps']:g})"
    if isinstance(value, type):
        name = value.__name__
        return name.lower() if name in ("LayerNorm", "RmsNorm", "SiLU") else name
    if isinstance(value, float) and value == int(value):
        value = int(value)
    if isinstance(value, tuple) and len(value) > 8:
        return "by_layer"
    return str(value).replace(" ", "")


def lines_of(modules):
    from timm.models import _registry

    import_module("timm.models")
    known, lines, old = {}, [], []
    for module in (import_module(f"timm.models.{name}") for name in modules):
        module.build_model_with_cfg = capture
        names = sorted(_registry._module_to_models[module.__name__.split(".")[-1]])
        for name in names:
            if name in _registry._deprecated_models:
                target = _registry._deprecated_models[name].partition(".")[0]
                old.append(f"{name} = {target}")
                continue
            try:
                _registry.model_entrypoint(name)()
            except Captured as captured:
                kind, arguments = captured.args
            lines.append(shortest(name, KINDS[kind], arguments, known))
            known[name] = KINDS[kind], arguments
    return lines + old


def shortest(name, kind, arguments, known):
    sizes = [arguments[size] for size in SIZES]
    rest = [f"{key}={value}" for key, value in arguments.items() if key not in SIZES]
    choices = [" ".join(map(str, [name, kind, *sizes, *rest]))]
    for other, (its_kind, its) in known.items():
        if its_kind == kind:
            changed = {k: v for k, v in arguments.items() if its.get(k) != v}
            changed |= {key: "None" for key in its if key not in arguments}
            words = [f"{key}={value}" for key, value in changed.items()]
            choices.append(" ".join([name, "=", other, *words]))
    return min(choices, key=len)


def wrapped(line):
    words, rows = line.split(), [""]
    for word in words:
        if rows[-1] and len(rows[-1]) + len(word) + 1 > 98:
            rows.append(" ")
        rows[-1] += f" {word}" if rows[-1] else word
    return "\n".join(rows)


def main():
    folder = Path(sys.argv[1])
    for file, (modules, title) in FILES.items():
        lines = lines_of(modules)
        if file == "others":
            for size, stages in BITS.items():
                layers = str(stages).replace(" ", "")
                name = f"resnetv2_{size}_bit"
                lines.append(f"{name} bit stem_type=fixed layers={layers} width_factor={size[-1]}")
                lines += [f"{name}m{end} = {name}" for end in ("", "_in21k")]
            lines += [f"resnetv2_{old} = resnetv2_{size}_bit" for old, size in OLD_BITS.items()]
        body = "\n".join(map(wrapped, lines))
        about = f'"""Architectures of timm\'s {title}; see `architectures`."""'
        (folder / f"{file}.py").write_text(f'{about}\n\nTABLE = """\n{body}\n"""\n')


if __name__ == "__main__":
    main()
