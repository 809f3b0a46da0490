"""Names by which tables are found and read: files, splits and columns."""

import glob
import os
import re
from collections.abc import Iterable, Sequence

from vit_jax.errors import InputError, unknown

PATHS = ("path", "image", "file_name", "filename", "filepath")
LABELS = ("label", "class", "target", "labels")
SPLIT = ("split",)

# Splits of the Hugging Face hub, and the words of file names that stand for them.
_WORDS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "dev": "validation", "val": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
_SHARD = re.compile(r"([A-Za-z_][\w.]*)-\d{5}-of-\d{5}")


def split_of(path: str) -> str:
    """The split that a file belongs to, by the rules of the Hugging Face hub.

    "train-00000-of-00002.parquet" names it; else a word in the file's name, such as "val"; else
    the name of its folder, if that is such a word; else it is "train".
    """
    stem = os.path.basename(path).rpartition(".")[0]
    if match := _SHARD.match(stem):
        return match[1]
    for word in re.split(r"[^a-z]+", stem.lower()):
        if word in _WORDS:
            return _WORDS[word]
    return _WORDS.get(os.path.basename(os.path.dirname(os.path.abspath(path))).lower(), "train")


def matching(kind: str, pattern: str) -> list[str]:
    """The files that a path or a glob names, sorted.

    Raises:
      InputError: there is none, or it is a folder.
    """
    pattern = os.path.expanduser(pattern)
    if os.path.isfile(pattern):
        return [pattern]
    if os.path.isdir(pattern):
        raise InputError(f"{kind}:{pattern} is a folder; name the files in it, such as {pattern}/*")
    found = sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
    if not found:
        raise InputError(f"{kind}:{pattern}: no such file")
    return found


def usual(columns: Iterable[str], names: Sequence[str]) -> str | None:
    """The column with the first of the usual names, in upper or lower case; None: no column."""
    lower: dict[str, str] = {}
    for column in columns:
        lower.setdefault(column.strip().lower(), column)
    return next((lower[name] for name in names if name in lower), None)


def existing(where: str, column: str, columns: Sequence[str]) -> str:
    """A column that was asked for by name.

    Raises:
      InputError: there is none of that name; lists those there are.
    """
    if column not in columns:
        raise unknown(f"column of {where}", column, columns)
    return column
