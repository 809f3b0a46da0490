"""TensorBoard's event files."""

import dataclasses
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from vit_jax.train.log.trackers.tracker import Histogram, Option, Start, Tracker, Writer

if TYPE_CHECKING:
    from tensorboardX.proto.event_pb2 import Event


@dataclasses.dataclass(frozen=True)
class TensorBoard(Tracker):
    """Event files in the workdir; `config.log.tensorboard` turns them on."""

    title: ClassVar[str] = "TensorBoard events"

    def open(self, start: Start) -> Writer:
        """Opens a new event file; TensorBoard discards earlier events of steps that come again."""
        return _Events(start)


class _Events(Writer):
    def __init__(self, start: Start):
        # SummaryWriter would write in another thread, whose failure makes its queue block.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import hparams, text

        self._writer = EventsWriter(str(start.workdir / "events"))
        if start.step:
            session = SessionLog(status=SessionLog.START)
            self._put(Event(step=start.step + 1, session_log=session))
        if start.options:
            plain = {name: _plain(value) for name, value in start.options.items()}
            for summary in hparams(plain, {"train/loss": 0.0})[:2]:  # the third ends the run
                self._put(Event(step=start.step, summary=summary))
            self._put(Event(step=start.step, summary=text("config", _table(start.options))))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        for name, value in values.items():
            self._put(Event(step=step, summary=scalar(name, value)))
        self._writer.flush()

    def images(self, step: int, name: str, images: np.ndarray) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import image

        for number, pixels in enumerate(images):
            summary = image(f"{name}/{number}", pixels, dataformats="HWC")
            self._put(Event(step=step, summary=summary))
        self._writer.flush()

    def histograms(self, step: int, found: dict[str, Histogram]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import histogram_raw

        for name, histogram in found.items():
            limits, counts = histogram.limits.tolist(), histogram.counts.tolist()
            used = np.flatnonzero(histogram.counts)
            low, high = (limits[used[0]], limits[used[-1]]) if used.size else (0.0, 0.0)
            middle = np.array(limits)
            total, squares = (float((counts * middle**power).sum()) for power in (1, 2))
            about = dict(min=low, max=high, num=sum(counts), sum=total, sum_squares=squares)
            summary = histogram_raw(name, bucket_limits=limits, bucket_counts=counts, **about)
            self._put(Event(step=step, summary=summary))
        self._writer.flush()

    def _put(self, event: "Event") -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)

    def close(self, finished: bool) -> None:
        self._writer.close()


def _plain(value: Option) -> bool | int | float | str | None:
    return value if isinstance(value, (bool, int, float, str)) or value is None else str(value)


def _table(options: Mapping[str, Option]) -> str:
    """The options as a table in Markdown."""
    rows = [
        f"| {name} | {str(value).replace('|', chr(92) + '|')} |" for name, value in options.items()
    ]
    return "\n".join(["| option | value |", "|---|---|", *rows])
