"""Files of image features, written row by row: .npz and .parquet."""

import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from vit_jax.errors import InputError

ENDINGS = (".npz", ".parquet")
ROWS = 1024  # of a row group of Parquet


class EmbeddingsWriter(Protocol):
    """Takes the features of one image after the other."""

    count: int  # images so far

    def add(self, path: str, features: np.ndarray) -> None:
        """Adds the features (D,) of an image."""


@contextmanager
def open_embeddings(file: str) -> Iterator[EmbeddingsWriter]:
    """Opens a file of features for writing; it appears whole at the end, or not at all.

    `.npz` has `paths`, str (n,), and `embeddings`, float32 (n, D). `.parquet` has the columns
    `path` and `embedding`, a list of D float32. Bytes of a name that are not UTF-8 are escaped
    in `path`, as \\xe9.

    Args:
      file: path that ends in .npz or .parquet.

    Raises:
      InputError: another ending, or Parquet without pyarrow.
    """
    check_embeddings(file)
    make = _Npz if file.endswith(".npz") else _Parquet
    descriptor, temporary = tempfile.mkstemp(dir=Path(file).parent, prefix=f".{Path(file).name}.")
    try:
        with os.fdopen(descriptor, "wb") as output:
            writer = make(output, Path(file).parent)
            yield writer
            writer.finish()
        os.chmod(temporary, 0o644)  # mkstemp's are private
        os.replace(temporary, file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def check_embeddings(file: str) -> None:
    """Refuses a file of another ending, and Parquet without pyarrow."""
    if not file.endswith(ENDINGS):
        raise InputError(f"--embeddings={file}: the name must end in {' or '.join(ENDINGS)}")
    if file.endswith(".parquet"):
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise InputError(
                f"--embeddings={file} needs pyarrow: pip install 'vit_jax[datasets]'"
            ) from None


class _Npz:
    """Rows lie in a file of their own until their number is known, which comes first in .npz."""

    def __init__(self, output: IO[bytes], folder: Path):
        self.count, self._width = 0, 0
        self._output, self._paths = output, list[str]()
        self._rows = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  closed by `finish`

    def add(self, path: str, features: np.ndarray) -> None:
        row = np.ascontiguousarray(features, np.float32)
        self._rows.write(row.data)
        self._paths.append(path)
        self.count, self._width = self.count + 1, len(row)

    def finish(self) -> None:
        with self._rows, zipfile.ZipFile(self._output, "w") as archive:
            with archive.open("paths.npy", "w", force_zip64=True) as member:
                names = np.array(self._paths, np.str_)
                np.lib.format.write_array(member, names, allow_pickle=False)
            header = dict(
                descr=np.lib.format.dtype_to_descr(np.dtype(np.float32)),
                fortran_order=False,
                shape=(self.count, self._width),
            )
            with archive.open("embeddings.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, header)
                self._rows.seek(0)
                shutil.copyfileobj(self._rows, member)


class _Parquet:
    """Rows are written in groups of `ROWS`; without any image the file has no rows."""

    def __init__(self, output: IO[bytes], folder: Path):
        del folder
        self.count = 0
        self._output = output
        self._writer: Any = None  # of pyarrow, which has no types
        self._paths, self._rows = list[str](), list[np.ndarray]()

    def add(self, path: str, features: np.ndarray) -> None:
        encoded = path.encode("utf-8", "surrogateescape")
        self._paths.append(encoded.decode(errors="backslashreplace"))
        self._rows.append(np.array(features, np.float32))  # a copy, without the rest of its batch
        self.count += 1
        if len(self._rows) == ROWS:
            self._write()

    def _write(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        width = len(self._rows[0]) if self._rows else 0
        values = pa.array(np.concatenate(self._rows) if self._rows else np.zeros(0, np.float32))
        kind = pa.list_(pa.float32(), width) if width else pa.list_(pa.float32())
        rows = pa.FixedSizeListArray.from_arrays(values, width) if width else pa.array([], kind)
        table = pa.table(dict(path=pa.array(self._paths, pa.string()), embedding=rows))
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._output, table.schema)
        self._writer.write_table(table)
        self._paths, self._rows = [], []

    def finish(self) -> None:
        if self._rows or self._writer is None:
            self._write()
        self._writer.close()
