"""Evaluation protocols; `vit_jax.evaluate(path)` evaluates stored weights."""

import os
import sys
import types
from typing import Any

from vit_jax.schema import check_given, path_given


class _Evaluate(types.ModuleType):
    """This package as a module that can be called."""

    def __call__(
        self,
        path: str | os.PathLike[str],
        *,
        source: str | None = None,
        split: str | None = None,
        pp: str | None = None,
        data_dir: str = "",
        batch_size: int = 128,
        use_ema: bool | None = None,
        tta: str | None = None,
    ) -> dict[str, Any]:
        """Accuracy of stored weights on a data set, each example counted once, on all devices.

        Args:
          path: workdir, checkpoint or weight file.
          source: data source, such as "folder:photos"; None: the run's own evaluation, which then
            decides everything else that is not given, too.
          split: split in tfds syntax, such as "test" or "train[80%:]".
          pp: preprocessing; None: that of the weights.
          data_dir: folder of tfds data; "": as in the run.
          batch_size: batch size over all devices.
          use_ema: whether to use the averaged parameters; None: as in the run's evaluation.
          tta: views over which predictions are averaged: none, flip, five_crop or ten_crop; None:
            as in the run's evaluation.

        Returns:
          Of a classifier `top1`, `top5` and `loss`; `examples`, `source` and `split`.

        Raises:
          InputError: no such weights or data, or data that do not fit the model.

        Example:
            >>> found = vit_jax.evaluate("workdirs/digits", source="digits", split="train[80%:]")
            >>> found["examples"], 0 <= found["top1"] <= found["top5"] <= 1
            (359, True)
        """
        from vit_jax.evaluate.stored import evaluate_checkpoint

        for name, value in dict(source=source, split=split, pp=pp, tta=tta).items():
            check_given(value, name, str, optional=True)
        check_given(batch_size, "batch_size", int)
        check_given(use_ema, "use_ema", bool, optional=True)
        return evaluate_checkpoint(
            path_given(path, "path"),
            source=source,
            split=split,
            pp=pp,
            data_dir=path_given(data_dir, "data_dir"),
            batch_size=batch_size,
            use_ema=use_ema,
            tta=tta,
        )


sys.modules[__name__].__class__ = _Evaluate
