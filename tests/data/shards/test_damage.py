"""Tar files that are damaged, hostile or not what they should be: one line each."""

import io
import json
import subprocess
import sys
import tarfile
import tracemalloc

import numpy as np
import pytest

from vit_jax.data import open_source
from vit_jax.data.sources.record_files import reading
from vit_jax.data.sources.shards import storage, tar
from vit_jax.errors import InputError


@pytest.fixture
def image(encode):
    return encode(np.zeros((4, 4, 3), np.uint8), "PNG")


@pytest.fixture
def refused(tmp_path, write_tar):
    """refused(content or members, what): a shard that is refused in a line with its name."""

    def refused(content, what):
        path = tmp_path / "a.tar"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            write_tar(path, content)
        with pytest.raises(InputError, match=what) as caught:
            open_source(f"wds:{path}", "train")
        assert str(path) in str(caught.value)

    return refused


def header(name, size=b"00000000001", kind=b"0"):
    """One header of a tar file, with its checksum."""
    block = bytearray(512)
    block[: len(name)] = name
    block[124 : 124 + len(size)] = size
    block[156:157] = kind
    block[257:263] = b"ustar\0"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def big(number):
    """A size in base 256."""
    return b"\x80" + number.to_bytes(11)


def test_a_truncated_tar(tmp_path, write_tar, image, refused):
    whole = write_tar(tmp_path / "b.tar", [("a.png", image), ("a.cls", b"0")]).read_bytes()
    refused(whole[: 512 + len(image) // 2], "truncated: a.png claims .* bytes, .* are left")
    refused(whole[:1024], "truncated behind 1 members, as its end mark is missing")
    refused(whole[:1100], "truncated behind 1 members")
    refused(b"", "truncated behind 0 members")


def test_no_tar_file(tmp_path, write_tar, image, refused):
    refused(b"x" * 2000, "no tar file")
    whole = write_tar(tmp_path / "b.tar", [("a.png", image)]).read_bytes()
    refused(b"\x1f\x8b" + whole, "compressed, so that .* unpack it")
    refused(whole[:1024] + b"y" * 1024, "damaged at byte 1,024: no header of a member")


def test_without_images_or_labels(image, refused):
    refused([], "no images in it")
    refused([("a.wav", b"x"), ("a.cls", b"0")], "no images in it.* it holds KEY.wav")
    refused([("a.png", image)], "key a has an image and no label: a.cls, a.json with")
    refused([("a.png", image), ("b.cls", b"0")], "key a has an image and no label")
    refused([("a.png", image), ("a.json", b"{}")], "key a has an image and no label")


def test_keys_that_come_twice(image, refused):
    label = ("a.cls", b"0")
    refused([("a.png", image), label, ("a.png", image)], "two members are named a.png")
    refused([("a.png", image), label, label], "two members are named a.cls")
    refused([("a.png", image), label, ("a.jpg", image)], "key a has two images, a.png and a.jpg")


@pytest.mark.parametrize(
    "name, content, what",
    [
        ("a.cls", b"", "a.cls is empty"),
        ("a.cls", b"-1", "a.cls is -1; classes are numbered from 0"),
        ("a.cls", b"\xff\xfe", "a.cls is not text"),
        ("a.txt", b"a dog\non a beach", "a.txt holds several lines"),
        ("a.txt", b"x" * 1001, "a.txt holds 1,001 bytes, which is no label"),
        ("a.json", b"{", "a.json is not JSON"),
        ("a.json", b"[" * 100_000, "a.json is not JSON"),
        ("a.json", b'{"label": [1, 2]}', r"label is \[1, 2\]; a label is a class's number or name"),
        ("a.json", b'{"label": 1.5}', "label is 1.5"),
        ("a.json", b'{"label": true}', "label is True"),
        ("a.json", b" " * (2**20 + 1), "a.json holds 1,048,577 bytes"),
    ],
)
def test_labels_that_are_none(name, content, what, image, refused):
    refused([("a.png", image), (name, content)], what)


def test_a_field_that_is_not_there(tmp_path, write_tar, image):
    path = write_tar(tmp_path / "a.tar", [("a.png", image), ("a.json", b'{"x": 1, "y": 2}')])
    with pytest.raises(InputError, match="a.json has no field 'kind'; it has x, y"):
        open_source(f"wds:{path}?label=kind", "train")


@pytest.mark.parametrize("kind, word", [(tarfile.SYMTYPE, "symbolic"), (tarfile.LNKTYPE, "hard")])
def test_links_are_not_followed(kind, word, tmp_path, image, refused):
    (tmp_path / "secret").write_bytes(image)
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as found:
        info = tarfile.TarInfo("a.png")
        info.type, info.linkname = kind, str(tmp_path / "secret")
        found.addfile(info)
    refused(path.read_bytes(), f"a.png is a {word} link, which is not followed")


@pytest.mark.parametrize("kind", [b"0", b"L", b"x", b"g", b"K"])
@pytest.mark.parametrize("size", [b"77777777777", big(2**60), big(2**87)])
def test_claims_of_gigabytes_take_no_memory(kind, size, refused):
    tracemalloc.start()
    refused(header(b"a.png", size, kind) + bytes(1024), "claims [0-9,]{10,} bytes")
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


@pytest.mark.parametrize("size", [b"-0000000001", b"99999999999", b"\xff" * 12])
def test_sizes_that_are_no_numbers(size, refused):
    refused(header(b"a.png", size) + bytes(1024), "the size of member 0 is no number")


@pytest.mark.parametrize(
    "record", [b"9999999 path=x\n", b"path=x\n", b"6 a=b", b"15 size=-1 12345\n", b"0 a=b\n"]
)
def test_damaged_extended_headers(record, refused):
    text = header(b"x", b"%011o" % len(record), b"x") + record.ljust(512, b"\0")
    refused(text + header(b"a.png") + bytes(1536), "of member 0 is|extended header")


def test_a_name_with_a_newline_is_one_line(tmp_path, write_tar, image):
    """Messages of a command escape what names hold."""
    path = write_tar(tmp_path / "a.tar", [("a\n\x1b[31mb.png", image)])
    done = subprocess.run(
        [sys.executable, "-m", "vit_jax", "data", "--config=configs/finetune.py:ViT-Ti/16,pets",
         f"--config.data.source=wds:{path}"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if "a.tar" in line]
    assert len(lines) == 1 and "\x1b" not in done.stderr
    assert r"key a\n\x1b[31mb has an image and no label" in lines[0]


def test_long_names_and_large_numbers_are_read_as_tarfile_reads_them(tmp_path):
    names = ["x" * 150 + ".png", "d" * 90 + "/" + "y" * 99 + ".png", "grün.png", "./a.png"]
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tmp_path / f"{form}.tar"
        with tarfile.open(path, "w", format=form, pax_headers={"comment": "x" * 600}) as found:
            for number, name in enumerate(names):
                info = tarfile.TarInfo(name)
                info.size = 700 * number + 1
                info.uid = 2**40  # beyond octal digits
                found.addfile(info, io.BytesIO(bytes(info.size)))
            folder = tarfile.TarInfo("folder")
            folder.type = tarfile.DIRTYPE
            found.addfile(folder)
        with reading(str(path)) as read_at:
            held = list(tar.members(str(path), read_at, path.stat().st_size))
        with tarfile.open(path) as found:
            expected = [(m.name, m.offset_data, m.size) for m in found if m.isfile()]
        assert [(m.name, m.offset, m.size) for m in held] == expected


def test_addresses_that_name_nothing(tmp_path, write_tar):
    (tmp_path / "empty").mkdir()
    for address, what in [
        (f"{tmp_path}/no.tar", "no.tar: cannot be read: no such file"),
        (f"{tmp_path}/{{0..1}}.tar", "0.tar: cannot be read: no such file"),
        (f"{tmp_path}/*.tar", "matches no file"),
        (f"{tmp_path}/empty", "holds no file that ends in .tar"),
        (f"{tmp_path}/{{0..99999999}}.tar", "more than 1,000,000 files"),
        (f"{tmp_path}/{{0-3}}.tar", "bad braces"),
        (f"{tmp_path}/{{0..3.tar", "bad braces"),
        (f"{tmp_path}/a.tar?label=", "bad data source"),
        (
            f"{tmp_path}/a.tar?field=x",
            r"bad data source .* write wds:SHARDS or wds:SHARDS",
        ),
    ]:
        with pytest.raises(InputError, match=what):
            open_source(f"wds:{address}", "train")


def test_a_shard_that_may_not_be_read(tmp_path, write_tar, image, monkeypatch):
    path = write_tar(tmp_path / "a.tar", [("a.png", image), ("a.cls", b"0")])
    (tmp_path / "b.tar").mkdir()
    with pytest.raises(InputError, match="b.tar: cannot be read: Is a directory"):
        open_source(f"wds:{tmp_path}/[ab].tar", "train")
    source = open_source(f"wds:{path}", "train")
    path.unlink()
    with pytest.raises(InputError, match="a.tar: cannot be read: no such file"):
        source.fetch(np.arange(1))


@pytest.mark.parametrize(
    "name, text, what",
    [
        ("classes.txt", "cat\ncat\n", "names class 'cat' twice"),
        ("classes.txt", "cat\n", "label '1' is neither a class .* nor a number below 1"),
        ("_info.json", "[]", "expected an object"),
        ("_info.json", "{", "is not JSON"),
        ("_info.json", json.dumps(dict(class_names=[1])), "class_names is a list of names"),
        ("_info.json", json.dumps(dict(splits=dict(a=dict(filenames=3)))), "are lists"),
    ],
)
def test_files_beside_the_shards(name, text, what, tmp_path, write_tar, image):
    path = write_tar(tmp_path / "a.tar", [("a.png", image), ("a.cls", b"1")])
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=what):
        open_source(f"wds:{path}", "train")


def test_without_fsspec_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    storage._file_system.cache_clear()
    with pytest.raises(InputError, match=r"s3://bucket needs fsspec: pip install 'vit_jax\[remo"):
        open_source("wds:s3://bucket/{0..3}.tar", "train")


def test_a_server_that_sends_whole_files(monkeypatch):
    """Such as Python's http.server, which ignores the range that is asked for."""

    class Files:
        def info(self, path):
            return dict(size=10_000, partial=True)

        def cat_file(self, path, start=None, end=None):
            return bytes(10_000)

    monkeypatch.setattr(storage, "_remote", lambda path: Files())
    with pytest.raises(InputError, match="sends whole files, not parts of them"):
        storage.read("https://x/a.tar", 512, 0)
    Files.info = lambda self, path: dict(size=None)
    with pytest.raises(InputError, match="sends whole files"):
        storage.facts("https://x/a.tar")


@pytest.mark.parametrize(
    "pattern, names",
    [
        ("a-{08..11}.tar", ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]),
        ("{train,val}-{9..10}", ["train-9", "train-10", "val-9", "val-10"]),
        ("{2..0}", ["2", "1", "0"]),
        ("s3://b/plain.tar", ["s3://b/plain.tar"]),
    ],
)
def test_braces_are_expanded_as_by_a_shell(pattern, names):
    assert storage.braces(pattern) == names
    shell = subprocess.run(["bash", "-c", f"echo {pattern}"], capture_output=True, text=True)
    assert shell.stdout.split() == names
