import io
import os
import tarfile

import numpy as np
import pytest


def write_tar(path, members):
    """A tar file of (name, bytes) pairs, in order."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture(name="write_tar")
def write_tar_fixture():
    return write_tar


def members_of(folder):
    """The images of class folders as members of shards: KEY.jpg and KEY.cls."""
    for number, name in enumerate(sorted(os.listdir(folder))):
        for file in sorted(os.listdir(folder / name)):
            key = f"{name}/{file.partition('.')[0]}"
            yield [(f"{name}/{file}", (folder / name / file).read_bytes()),
                   (f"{key}.cls", b"%d\n" % number)]  # fmt: skip


@pytest.fixture
def shards(folder, tmp_path):
    """The images of `folder` in three shards, mixed, and their classes' names."""
    examples = list(members_of(folder))
    mixed = [examples[row] for row in np.random.default_rng(1).permutation(len(examples))]
    (tmp_path / "shards").mkdir()
    for number in range(3):
        rows = [member for example in mixed[number::3] for member in example]
        write_tar(tmp_path / "shards" / f"train-{number:02d}.tar", rows)
    (tmp_path / "shards" / "classes.txt").write_text("cat\ndog\n")
    return tmp_path / "shards"
