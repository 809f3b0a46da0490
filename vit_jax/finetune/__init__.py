"""Fine-tuning on one's own images: every option chosen by the weights, the images, the devices.

`vit_jax.finetune(weights, data)` runs it.
"""

import os
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Any


class _Finetune(types.ModuleType):
    """This package as a module that can be called."""

    def __call__(
        self,
        weights: str | os.PathLike[str],
        data: str | os.PathLike[str],
        *,
        workdir: str | os.PathLike[str] = "",
        epochs: float | None = None,
        image_size: int | None = None,
        method: str = "full",
        sweep: bool = False,
        jobs: int = 1,
        overrides: Mapping[str, object] | Sequence[str] = (),
    ) -> dict[str, Any]:
        """Fine-tunes weights on images, as `vit_jax finetune`; what is not given is chosen.

        The choices are logged, each with its reason; docs/finetuning.md has the rules. Called
        again with the same workdir, an interrupted run continues.

        Args:
          weights: hub id, weight file, workdir or checkpoint.
          data: data source, such as "csv:labels.csv", or a folder with a folder for each class.
          workdir: folder for checkpoints and metrics; "": workdirs/WEIGHTS-DATA.
          epochs: length of the run; None: by the number of images.
          image_size: side of images in pixels; None: that of the weights.
          method: what is trained: full (everything), lora, bias, head, or probe (the head, as in a
            linear evaluation).
          sweep: whether to choose the learning rate and layer decay first, by short runs on
            held-out images, each a process.
          jobs: number of runs of the sweep at a time, each on its share of the GPUs or cores.
          overrides: options of the config, {"batch_size": 16} or ["batch_size=16"].

        Returns:
          The summary, as `train`; its "outcome" has the best checkpoint's path and results, with
          the classes that it confuses.

        Raises:
          InputError: wrong values, weights or images that cannot be read.
          KeyboardInterrupt, Preempted: stopped early, state saved.
          NonFiniteError: the run diverged.

        Example:
            >>> import pathlib
            >>> import numpy as np
            >>> from PIL import Image
            >>> for name, shade in dict(dark=40, light=200).items():
            ...     for i in range(12):
            ...         file = pathlib.Path("shades", name, f"{i}.png")
            ...         file.parent.mkdir(parents=True, exist_ok=True)
            ...         Image.fromarray(np.full((8, 8), shade + i, np.uint8)).save(file)
            >>> summary = vit_jax.finetune(
            ...     "workdirs/digits",
            ...     "shades",
            ...     workdir="workdirs/shades",
            ...     epochs=1,
            ...     overrides={"batch_size": 8, "log.tensorboard": False},
            ... )
            >>> summary["outcome"]["examples"], sorted(summary["outcome"]["class_accuracy"])
            (2, ['dark', 'light'])
        """
        from vit_jax.finetune.run import finetune

        return finetune(
            weights,
            data,
            workdir=workdir,
            epochs=epochs,
            image_size=image_size,
            method=method,
            sweep=sweep,
            jobs=jobs,
            overrides=overrides,
        )


sys.modules[__name__].__class__ = _Finetune
