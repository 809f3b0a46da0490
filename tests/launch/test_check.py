"""launch/check.py: what it refuses and with which remedy."""

import importlib.util
from pathlib import Path

import pytest

from vit_jax.errors import InputError

ROOT = Path(__file__).parents[2]
TRAIN = [f"--config={ROOT}/configs/quickstart.py", "--workdir=/bucket/run"]


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("check", ROOT / "launch/check.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Chips of a type: cloud.google.com/tpu/docs, "TPU configurations"; v3 has two devices a chip.
@pytest.mark.parametrize(
    "kind, devices",
    [("v2-8", 8), ("v3-32", 32), ("v4-8", 4), ("v4-128", 64), ("v5p-32", 16),
     ("v5litepod-16", 16), ("v6e-256", 256)],
)  # fmt: skip
def test_devices_of_a_type(check, kind, devices):
    assert check.tpu_devices(kind) == devices


@pytest.mark.parametrize(
    "kind, message",
    [("v9-16", "unknown TPU type 'v9'"), ("v4-15", "no usable number"), ("v4", "write v4-32")],
)
def test_types_that_do_not_exist(check, kind, message):
    with pytest.raises(InputError, match=message):
        check.tpu_devices(kind)


def test_the_printed_commands_work_with_the_s16_config(check, monkeypatch, capsys):
    text = (ROOT / "docs/launch.md").read_text().replace("\\\n", " ")
    printed = [line for line in text.splitlines() if line.startswith("python launch/check.py --")]
    assert len(printed) == 2
    for line in printed:
        line = line.replace("--config=...", f"--config={ROOT}/configs/vit_s16_i1k.py:90")
        monkeypatch.setattr("sys.argv", line.replace("--workdir=...", "--workdir=/x").split()[1:])
        assert check.main() == 0, capsys.readouterr().err


def test_what_fits(check):
    found = check.check([*TRAIN, "--config.parallel.fsdp=4", "--config.parallel.replica=2"], 16, 2)
    assert found.startswith(
        "16 devices, mesh replica=2 data=2 fsdp=4 sequence=1 tensor=1, batch 64"
    )
    pmap = [*TRAIN, "--config.parallel.engine=pmap"]
    assert check.check(pmap, 64).startswith("64 devices, mesh data=64")


@pytest.mark.parametrize(
    "words, message",
    [
        (["--tpu=v6e-64", "--slices=0"], "--slices=0: give a number from 1"),
        (["--tpu=v6e-64", "--slices=-2"], "--slices=-2: give a number from 1"),
        (["--tpu=v6e-64", "--slices=two"], "invalid int value: 'two'"),
        (["--devices=0"], "--devices=0: give a number from 1"),
        ([], "give a JobSet, --tpu or --devices"),
        (["{tmp}/none\n.yaml"], "none\\n.yaml: cannot be read: No such file"),
        (["{tmp}"], "cannot be read: Is a directory"),
        (["{tmp}/empty.yaml"], "empty.yaml is no JobSet"),
        (["{tmp}/bytes.yaml"], "bytes.yaml is no JobSet"),
        (["{tmp}/list.yaml"], "list.yaml is no JobSet"),
        (["{tmp}/open.yaml"], "open.yaml is no JobSet"),
    ],
)
def test_wrong_arguments_are_one_line(check, words, message, tmp_path, monkeypatch, capsys):
    for name, content in dict(empty=b"", bytes=b"\xff\0\x9d", list=b"[1]", open=b"{").items():
        (tmp_path / f"{name}.yaml").write_bytes(content)
    words = [word.format(tmp=tmp_path) for word in words]
    monkeypatch.setattr("sys.argv", ["check.py", *words, "--", *TRAIN])
    assert check.main() == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert out == "" and line.startswith("launch/check.py: ") and message in line


@pytest.mark.parametrize(
    "train, devices, slices, message",
    [
        (TRAIN[1:], 8, 1, "--config is missing"),
        (TRAIN[:1], 8, 1, "--workdir is missing"),
        ([TRAIN[0], "--workdir=gs://bucket/run"], 8, 1, "mount the bucket"),
        (["--config=configs/none.py", TRAIN[1]], 8, 1, "does not exist"),
        ([*TRAIN, "--config.parallel.fsdp=3"], 16, 1, "does not fit 16 devices"),
        ([*TRAIN, "--config.parallel.fsdp=3"], 12, 1, "the nearest that does is"),
        (TRAIN, 16, 2, "give --config.parallel.replica=2"),
    ],
)
def test_what_does_not_fit(check, train, devices, slices, message):
    with pytest.raises(InputError, match=message):
        check.check(train, devices, slices)
