"""What the data must deliver, and the hosts' cores for it."""

import math
from typing import Any


def needed(
    *,
    batch_size: int,
    bytes_per_image: float,
    step_seconds: float,
    readers: int,
    images_per_core: float | None = None,
    host_cores: int | None = None,
) -> dict[str, Any]:
    """What the hosts must prepare so that no step waits for its batch.

    Args:
      batch_size: examples of a step.
      bytes_per_image: bytes of one example as it goes to the devices.
      step_seconds: time of a step that never waits.
      readers: hosts among which the examples of a batch are divided.
      images_per_core: images per second that one core prepares; None: unknown.
      host_cores: cores of each host; None: unknown.

    Returns:
      `images_per_second` and `bytes_per_second` of all hosts and, with `_per_host`, of each;
      `cores_per_host`, the cores that prepare them, `host_cores`, and `step_seconds`, the least
      time of a step if all cores of a host prepare images. The last three may be None.
    """
    images = batch_size / step_seconds
    share = images / readers
    cores = None if images_per_core is None else math.ceil(share / images_per_core)
    slowest = None
    if images_per_core is not None and host_cores is not None:
        slowest = batch_size / (readers * host_cores * images_per_core)
    return dict(
        images_per_second=images,
        bytes_per_second=images * bytes_per_image,
        hosts=readers,
        images_per_second_per_host=share,
        bytes_per_second_per_host=share * bytes_per_image,
        images_per_core=images_per_core,
        cores_per_host=cores,
        host_cores=host_cores,
        step_seconds=slowest,
    )
