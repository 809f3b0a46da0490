"""metrics.jsonl after kills: every step once."""

import errno
import io
import json
import struct

import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import config as configs
from vit_jax.train.log import histograms
from vit_jax.train.log.metrics import LogOptions, MetricsLog

LOG = configs.default().log


def open_log(workdir, step, write=True):
    LOG.tensorboard = False
    return MetricsLog(workdir, LOG, step=step, write=write)


def steps(workdir):
    return [
        json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()
    ]


def test_steps_after_the_checkpoint_are_written_again_and_once(tmp_path):
    log = open_log(tmp_path, 0)
    for step in (1, 2, 3):
        log.add(step, {"loss": step / 3})
    log.flush()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # killed while it wrote
    log = open_log(tmp_path, 2)
    assert log.last == {"step": 2, "loss": 2 / 3}
    log.add(3, {"loss": 1.0})
    log.add(4, {"loss": 4 / 3})
    log.close()
    assert steps(tmp_path) == [1, 2, 3, 4]


def test_a_last_line_without_its_end_is_not_joined_with_the_next(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step":1,"loss":0.5}')  # all but the newline
    log = open_log(tmp_path, 1)
    log.add(2, {"loss": 0.25})
    log.close()
    path = tmp_path / "metrics.jsonl"
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": 0.25},
    ]


def test_lines_wait_for_a_full_disk(tmp_path, caplog, monkeypatch):
    log = open_log(tmp_path, 0)
    file = log._file._file

    class Full:
        """Takes 5 bytes of the next line, then nothing."""

        left = 5

        def write(self, content):
            if not self.left:
                raise OSError(errno.ENOSPC, "No space left on device")
            taken, self.left = file.write(content[: self.left]), 0
            return taken

    monkeypatch.setattr(log._file, "_file", Full())
    for step in (1, 2, 3):
        log.add(step, {"loss": 1.0})
        log.flush()
    assert [record.message for record in caplog.records] == [
        f"{tmp_path / 'metrics.jsonl'}: No space left on device; its lines wait"
    ]
    monkeypatch.setattr(log._file, "_file", file)  # there is space again
    log.add(4, {"loss": 1.0})
    log.close()
    assert steps(tmp_path) == [1, 2, 3, 4]


def test_numbers_that_are_not_finite_stay_json(tmp_path):
    log = open_log(tmp_path, 0)
    log.add(1, {"loss": float("nan")})
    log.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "loss": None}


def test_other_processes_know_the_metrics_and_write_nothing(tmp_path):
    log = open_log(tmp_path, 0)
    log.add(5, {"eval/test/top1": 0.75})
    log.close()
    before = (tmp_path / "metrics.jsonl").read_bytes()
    other = open_log(tmp_path, 5, write=False)
    assert other.last["eval/test/top1"] == 0.75
    other.add(6, {"loss": 1.0})
    other.close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def events(workdir):
    """(step, tag, value) of every scalar in the event files, read by their framing."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in workdir.glob("events.out.tfevents.*"):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            data = data[16 + length :]
    return found


def test_event_files_have_every_value(tmp_path):
    config = configs.default().log
    metrics = MetricsLog(tmp_path, config, step=0)
    assert not list(tmp_path.glob("events.*"))  # nothing is imported before there is a value
    for step in (1, 2):
        metrics.add(step, {"train/loss": 0.5 * step})
    metrics.close()
    assert events(tmp_path) == [(1, "train/loss", 0.5), (2, "train/loss", 1.0)]


@pytest.mark.parametrize("fails", ["__init__", "write_event", "flush", "close"])
def test_event_files_that_fail_stop_with_a_word_and_nothing_waits(
    fails, tmp_path, monkeypatch, caplog
):
    """As on a full disk; more values than any queue holds."""
    from tensorboardX.event_file_writer import EventsWriter

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(EventsWriter, fails, fail)
    metrics = MetricsLog(tmp_path, LogOptions(), step=0)
    for step in range(1, 100):
        metrics.add(step, {"train/loss": 0.5})
        metrics.flush()
    metrics.close()
    assert steps(tmp_path) == list(range(1, 100))
    assert [record.message for record in caplog.records] == [
        f"{tmp_path}: no more TensorBoard events: No space left on device"
    ]


def test_event_files_have_hyperparameters_images_and_histograms(tmp_path):
    from PIL import Image
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    options = {"batch_size": 32, "optimizer.learning_rate": 1e-3, "data.pp": "a|b"}
    metrics = MetricsLog(tmp_path, LogOptions(), step=0, options=options)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), np.uint8)
    metrics.images(1, "train/images", pixels)
    values = jnp.asarray([-3.0, -0.75, 0.0, 0.25, 0.3, 700.0])
    metrics.histograms(2, histograms.count("parameters", {"head": {"bias": values}}))
    metrics.add(2, {"train/loss": 0.5})
    metrics.close()
    found = {}
    for path in tmp_path.glob("events.out.tfevents.*"):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            for value in Event.FromString(data[12 : 12 + length]).summary.value:
                found[value.tag] = value
            data = data[16 + length :]
    plugin = found["_hparams_/session_start_info"].metadata.plugin_data
    hparams = HParamsPluginData.FromString(plugin.content).session_start_info.hparams
    assert hparams["optimizer.learning_rate"].number_value == 1e-3
    assert b"| data.pp | a\\|b |" in found["config/text_summary"].tensor.string_val[0]
    for number in (0, 1):
        content = found[f"train/images/{number}"].image.encoded_image_string
        shown = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        np.testing.assert_array_equal(shown, pixels[number])
    histogram = found["parameters/head/bias"].histo
    assert histogram.num == 6 and sum(histogram.bucket) == 6
    # As NumPy counts with the same limits.
    limits = np.concatenate([[-np.inf], histogram.bucket_limit])
    counts, _ = np.histogram(np.asarray(values), limits)
    np.testing.assert_array_equal(counts, histogram.bucket)
