"""MLflow."""

import dataclasses
import os
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np

from vit_jax.train.log.trackers.tracker import TRACKERS, Memory, Start, Tracker, Writer

if TYPE_CHECKING:
    pass

MOST_PARAMS, LONGEST_PARAM = 100, 500  # of one request, in characters


@TRACKERS.register("mlflow")
@dataclasses.dataclass(frozen=True)
class Mlflow(Tracker):
    """A run of an MLflow experiment.

    Attributes:
      experiment: name of the experiment, which is created if there is none.
      name: name of the run; "": name of the workdir.
      uri: server or folder; "": MLFLOW_TRACKING_URI, or mlruns/ in the workdir without it.
    """

    title = "MLflow metrics"
    package = "mlflow"
    experiment: str = "vit_jax"
    name: str = ""
    uri: str = ""

    def open(self, start: Start) -> Writer:
        """Begins the run, or goes on with that of an earlier start."""
        return _MlflowRun(self, start)


class _MlflowRun(Writer):
    def __init__(self, options: Mlflow, start: Start):
        uri = options.uri or os.environ.get("MLFLOW_TRACKING_URI")
        uri = uri or (start.workdir / "mlruns").absolute().as_uri()
        if urlsplit(uri).scheme in ("", "file"):
            # Folders are refused by default since MLflow 3.7.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client: MlflowClient = MlflowClient(tracking_uri=uri)
        self._memory = Memory(start.workdir, "mlflow")
        if self._memory.id:
            self._client.update_run(self._memory.id, status="RUNNING")
            return
        found = self._client.get_experiment_by_name(options.experiment)
        experiment = (
            found.experiment_id if found else self._client.create_experiment(options.experiment)
        )
        run = self._client.create_run(experiment, run_name=options.name or start.workdir.name)
        self._memory.id = run.info.run_id
        self._memory.note(0)
        params = [
            Param(name, str(value)[:LONGEST_PARAM])
            for name, value in start.options.items()
            if value is not None
        ]
        for first in range(0, len(params), MOST_PARAMS):
            self._client.log_batch(self._memory.id, params=params[first : first + MOST_PARAMS])

    def scalars(self, step: int, values: dict[str, float]) -> None:
        from mlflow.entities import Metric

        if self._memory.fresh(step):
            self._memory.note(step)
            now = int(time.time() * 1000)
            metrics = [Metric(name, value, now, step) for name, value in values.items()]
            self._client.log_batch(self._memory.id, metrics=metrics)

    def images(self, step: int, name: str, images: np.ndarray) -> None:
        from PIL import Image

        if self._memory.fresh(step):
            for number, image in enumerate(images):
                file = f"{name}/step{step}_{number}.png"
                self._client.log_image(self._memory.id, Image.fromarray(image), file)

    def close(self, finished: bool) -> None:
        self._client.set_terminated(self._memory.id, "FINISHED" if finished else "KILLED")
