"""Weight files whose headers claim more than they hold: one line, and no memory for the claim."""

import json
import resource
import struct
import sys
import tracemalloc
import zipfile

import pytest

from vit_jax.errors import InputError
from vit_jax.weights import read

CLAIM = 2**31  # bytes; within what this machine could give
ALLOWED = 64 * 2**20


def header(shape, dtype="<f4"):
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * (63 - (len(text) + 10) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def npz(file, shape, dtype="<f4"):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("cls.npy", header(shape, dtype) + bytes(16))


def safetensors(file, shape, end):
    text = json.dumps({"cls_token": dict(dtype="F32", shape=shape, data_offsets=[0, end])})
    file.write_bytes(struct.pack("<Q", len(text)) + text.encode() + bytes(16))


def pth(file, replace):
    torch = pytest.importorskip("torch")
    torch.save({"cls_token": torch.ones(4, 4)}, file)
    with zipfile.ZipFile(file) as source:
        members = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(file, "w") as target:
        for name, content in members.items():
            target.writestr(name, replace(content) if name.endswith("data.pkl") else content)


SHAPE, STORAGE = b"K\x04K\x04\x86", b"K\x10t"  # the pickle's (4, 4) and 16 elements
LARGE = b"J" + struct.pack("<i", CLAIM // 16)
FILES = {
    "npz, one array": ("x.npz", lambda file: npz(file, (CLAIM // 4,))),
    "npz, one long number": ("x.npz", lambda file: npz(file, (), f"|V{CLAIM - 1}")),
    "npz, 27 TiB": ("x.npz", lambda file: npz(file, (10**9, 100, 100, 3))),
    "npz, below zero": ("x.npz", lambda file: npz(file, (-4, -1))),
    "safetensors, beyond its end": (
        "x.safetensors",
        lambda file: safetensors(file, [CLAIM // 4], CLAIM),
    ),
    "safetensors, more than its bytes": (
        "x.safetensors",
        lambda file: safetensors(file, [CLAIM // 4], 16),
    ),
    "safetensors, a long header": (
        "x.safetensors",
        lambda file: file.write_bytes(struct.pack("<Q", CLAIM) + bytes(16)),
    ),
    "pth, its shape": (
        "x.pth",
        lambda file: pth(file, lambda content: content.replace(SHAPE, LARGE + b"K\x04\x86")),
    ),
    "pth, its storage": (
        "x.pth",
        lambda file: pth(
            file, lambda content: content.replace(STORAGE, LARGE + b"t").replace(SHAPE, SHAPE)
        ),
    ),
    "pth, one number repeated": (
        "x.pth",
        lambda file: pth(
            file,
            lambda content: content.replace(SHAPE, LARGE + b"K\x04\x86").replace(
                b"K\x04K\x01\x86", b"K\x00K\x00\x86"
            ),
        ),
    ),
}


def peak():
    """The largest memory of this process so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@pytest.mark.parametrize("case", FILES)
def test_a_claim_takes_no_memory(case, tmp_path):
    name, make = FILES[case]
    file = tmp_path / name
    make(file)
    assert file.stat().st_size < 4096
    if file.suffix == ".pth":
        pytest.importorskip("torch")
    before = peak()
    tracemalloc.start()  # NumPy's allocations, also those that nobody fills
    try:
        with pytest.raises(InputError) as error:
            read(file)
        assert tracemalloc.get_traced_memory()[1] < ALLOWED
    finally:
        tracemalloc.stop()
    assert peak() - before < ALLOWED  # those of PyTorch and safetensors
    assert str(file) in str(error.value) and "\n" not in str(error.value)
    if file.suffix != ".npz":
        assert "no known family" not in str(error.value)
