"""Headers that claim more than their file holds: refused in one line, before anything is made."""

import gzip
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from vit_jax.data import open_source
from vit_jax.data.sources import archives, cache
from vit_jax.errors import InputError


def npy(shape, dtype, data=b""):
    """An array file whose header may lie."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    header += " " * (63 - (len(header) + 10) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


def refused(spec, message, split="train", **options):
    """Expects one line that names the file, and little memory taken for it."""
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=message) as error:
            open_source(spec, split, **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "\n" not in str(error.value)
    return peak


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(
    "shape", [(10**9, 100, 100, 3), (10**4, 100, 100, 3), (2**40, 2**40), (0, 2**70)]
)
def test_an_archive_that_claims_terabytes(shape, compression, tmp_path):
    path = tmp_path / "d.npz"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("images.npy", npy(shape, "|u1"))
        archive.writestr("labels.npy", npy((4,), "<i8", bytes(32)))
    assert path.stat().st_size < 1000
    assert refused(f"npz:{path}", rf"npz:{path}") < 10e6


def test_both_headers_lie(tmp_path):
    """The archive's own directory also claims the bytes."""
    path = tmp_path / "d.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", npy((10**5, 100, 100, 3), "|u1"))
    data = path.read_bytes()
    old = struct.pack("<II", *[len(npy((10**5, 100, 100, 3), "|u1"))] * 2)
    assert data.count(old) == 2
    path.write_bytes(data.replace(old, struct.pack("<II", 3 * 10**9 + 128, 3 * 10**9 + 128)))
    assert refused(f"npz:{path}", rf"npz:{path}: cannot be read") < 10e6


def test_an_archive_may_hold_other_files(tmp_path):
    np.savez(tmp_path / "d.npz", images=np.zeros((2, 4, 4), np.uint8), labels=np.array([0, 1]))
    with zipfile.ZipFile(tmp_path / "d.npz", "a") as archive:
        archive.writestr("readme.txt", "hello")
    assert open_source(f"npz:{tmp_path}/d.npz", "train").size == 2


def test_compressed_zeros_are_no_lie(tmp_path):
    images = np.zeros((1000, 32, 32), np.uint8)
    np.savez_compressed(tmp_path / "d.npz", images=images, labels=np.arange(1000) % 2)
    assert (tmp_path / "d.npz").stat().st_size < images.size / 100
    assert open_source(f"npz:{tmp_path}/d.npz", "train").size == 1000


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("shape", [(2**31, 2**15, 2**15), (10**6, 28, 28)])
def test_an_idx_file_that_claims_more(shape, suffix, tmp_path):
    content = bytes([0, 0, 8, 3]) + struct.pack(">III", *shape) + bytes(100)
    path = tmp_path / f"train-images-idx3-ubyte{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    claim = " x ".join(map(str, shape))
    assert refused(f"idx:{tmp_path}", f"{path.name}: truncated .* header says {claim}") < 10e6


def test_a_compressed_idx_file_that_holds_more(tmp_path):
    content = bytes([0, 0, 8, 3]) + struct.pack(">III", 2, 3, 3) + bytes(10**8)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(content))
    del content
    assert refused(f"idx:{tmp_path}", "more bytes where its header says 2 x 3 x 3") < 10e6


def test_a_cached_table_that_claims_more_is_made_again(tmp_path):
    def made():
        return dict(rows=np.arange(cache.SMALL))

    cache.table("files", str(tmp_path), "", b"key", made)
    (path,) = (tmp_path / ".vit_jax").iterdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("rows.npy", npy((10**12,), "<i8"))
    assert len(cache.table("files", str(tmp_path), "", b"key", made)["rows"]) == cache.SMALL
    assert archives.read_archive(str(path)).keys() == {"rows", "key"}
