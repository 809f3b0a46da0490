"""The columns of images and labels in Arrow tables, such as Hugging Face's data sets."""

import dataclasses
import json
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from vit_jax.data.sources.tables import classes, names
from vit_jax.errors import InputError
from vit_jax.text import some

_IMAGES = ("image", "img", "picture", "photo")


@dataclasses.dataclass(frozen=True)
class Fields:
    """The columns that are read.

    Attributes:
      image: column of images.
      label: column of labels.
      nested: whether an image is a struct with a field "bytes" instead of plain bytes.
      class_names: class names by number from the schema; None: the labels are the names.
    """

    image: str
    label: str
    nested: bool
    class_names: tuple[str, ...] | None


def find_fields(where: str, schema: pa.Schema, options: Mapping[str, str]) -> Fields:
    """Finds the columns by the names asked for, else by type and usual name.

    Args:
      where: name of the table in messages.
      schema: its schema; class names come from the metadata under "huggingface".
      options: names asked for: "image", "label".

    Raises:
      InputError: there is no such column, or there are several.
    """
    features = _features(schema)
    there = some([f"{field.name} ({_short(field.type)})" for field in schema], 12)
    images = [field.name for field in schema if _nested(field.type) or _is_binary(field.type)]
    if "image" in options:
        image = names.existing(where, options["image"], images)
    elif (usual := names.usual(images, _IMAGES)) is not None:
        image = usual
    elif len(images) == 1:
        image = images[0]
    else:
        problem = f"{len(images)} columns of images" if images else "no column of images"
        remedy = (
            "choose one: ?image=COLUMN" if images else "an image is bytes, or a struct with them"
        )
        raise InputError(f"{where} has {problem}; its columns are {there}; {remedy}")
    listed = {name: found for name in schema.names if (found := _class_names(features.get(name)))}
    if "label" in options:
        label = names.existing(where, options["label"], schema.names)
    elif (found_label := names.usual(schema.names, names.LABELS)) is not None:
        label = found_label
    elif len(listed) == 1:
        label = next(iter(listed))
    else:
        what = f"{len(listed)} columns of classes" if listed else "no column of labels"
        raise InputError(f"{where} has {what}; its columns are {there}; name it: ?label=COLUMN")
    return Fields(image, label, _nested(schema.field(image).type), listed.get(label))


def _short(kind: pa.DataType) -> str:
    return "struct" if pa.types.is_struct(kind) else str(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _nested(kind: pa.DataType) -> bool:
    """Whether a type is a struct with the bytes of a file."""
    if not pa.types.is_struct(kind):
        return False
    return any(field.name == "bytes" and _is_binary(field.type) for field in kind)


def _features(schema: pa.Schema) -> dict[str, object]:
    """The features that the library of Hugging Face describes in a schema, by column."""
    try:
        found = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _class_names(feature: object) -> tuple[str, ...] | None:
    """The class names of a ClassLabel, or of a list of them; None for other features."""
    if isinstance(feature, list) and len(feature) == 1:  # a list in its older form
        return _class_names(feature[0])
    if not isinstance(feature, dict):
        return None
    if feature.get("_type") in ("Sequence", "List", "LargeList"):
        return _class_names(feature.get("feature"))
    found = feature.get("names")
    if feature.get("_type") != "ClassLabel" or not isinstance(found, list):
        return None
    return tuple(str(name) for name in found)


def image_bytes(column: pa.ChunkedArray, fields: Fields) -> pa.ChunkedArray:
    """The bytes of the image files in a column; null where there are none."""
    import pyarrow.compute as pc

    return pc.struct_field(column, "bytes") if fields.nested else column


def label_column(where: str, column: pa.ChunkedArray, fields: Fields) -> classes.Column:
    """The labels in a column of names or numbers, or of lists of them.

    Raises:
      InputError: another type, or a number without a class name.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = kind.value_type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    inner = kind.value_type if lists else kind
    text = pa.types.is_string(inner) or pa.types.is_large_string(inner)
    if not (text or pa.types.is_integer(inner) or pa.types.is_boolean(inner)):
        raise InputError(
            f"{where}: column {fields.label} holds {_short(kind)}; labels are names, whole "
            "numbers, or lists of them"
        )
    if lists:
        return _from_lists(where, column, fields)
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks() if encoded.num_chunks != 1 else encoded.chunk(0)
    values = [_names(where, [value], fields) for value in encoded.dictionary.to_pylist()]
    codes = encoded.indices.fill_null(classes.NO_LABEL).to_numpy(zero_copy_only=False)
    return _column(codes, values, fields)


def _from_lists(where: str, column: pa.ChunkedArray, fields: Fields) -> classes.Column:
    values: dict[classes.Names, int] = {}
    codes = np.empty(len(column), np.int32)
    row = 0
    for chunk in column.iterchunks():
        for start in range(0, len(chunk), 4096):
            for cell in chunk.slice(start, 4096).to_pylist():
                found = _names(where, cell or [], fields)
                codes[row] = values.setdefault(found, len(values))
                row += 1
    return _column(codes, list(values), fields)


def _column(codes: np.ndarray, values: Sequence[classes.Names], fields: Fields) -> classes.Column:
    """A column in which rows without classes have no label."""
    empty = np.array([not names for names in values] + [False])
    codes = np.where(empty[codes], classes.NO_LABEL, codes).astype(np.int32)
    return classes.Column(codes, values, fields.class_names)


def _names(where: str, cell: Sequence[object], fields: Fields) -> classes.Names:
    """The names of one row's labels; Hugging Face writes -1 where there is none."""
    listed = fields.class_names
    found = []
    for value in cell:
        if value is None:
            continue
        if listed is None or isinstance(value, str):
            found.append(str(value))
        elif isinstance(value, int) and value >= 0:
            if value >= len(listed):
                raise InputError(
                    f"{where}: column {fields.label} holds {value}, but its schema names "
                    f"{len(listed)} classes"
                )
            found.append(listed[value])
    return tuple(dict.fromkeys(found))


def joined(columns: Sequence[classes.Column]) -> classes.Column:
    """The columns of several files as one."""
    values: dict[classes.Names, int] = {}
    parts = []
    for column in columns:
        number = [values.setdefault(names, len(values)) for names in column.values]
        table = np.array([*number, classes.NO_LABEL], np.int32)
        parts.append(table[column.codes])
    return classes.Column(np.concatenate(parts), list(values), columns[0].names)
