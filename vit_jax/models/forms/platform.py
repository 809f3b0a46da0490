"""The devices that a program is traced for, and the forms that suit them."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax


def device_in_use() -> tuple[str, str]:
    """Platform (cpu, gpu or tpu) and kind, such as "NVIDIA H100 80GB HBM3".

    They are those of the mesh in use, whose devices may be descriptions to compile for; without
    a mesh, those of the default device.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is None:
        chosen = jax.default_device.value  # by a caller's `with jax.default_device(...)`
        device = chosen if isinstance(chosen, jax.Device) else jax.devices()[0]
    return device.platform, device.device_kind


def on_tpu() -> bool:
    """Whether the program that is being traced runs on TPUs."""
    return device_in_use()[0] == "tpu"


# Blocks up to which training on CPUs has no loop. Compiling takes longer by a tenth of a second a
# block, and a step of ViT-Ti/16 a seventh less time: docs/performance.md.
UNROLLED_DEPTH = 12


_in_training: ContextVar[bool] = ContextVar("in_training", default=False)


@contextlib.contextmanager
def training_form() -> Iterator[None]:
    """What is traced within has the form that is fastest together with its gradient."""
    token = _in_training.set(True)
    try:
        yield
    finally:
        _in_training.reset(token)


def unrolled(option: int, depth: int, *, recomputes: bool = False) -> int:
    """The number of blocks per iteration of the loop over blocks.

    On CPUs, a loop keeps what gradients need in stacked arrays, into which every block's are
    copied. Without gradients it is as fast as no loop.

    Args:
      option: `model.unroll`: a number, -1: all, 0: by the device and `training_form`.
      depth: number of blocks.
      recomputes: whether the backward pass computes blocks again, in order to save memory. On CPUs
        only a loop saves it: without one, XLA may compute all of them ahead.
    """
    if option == 0:
        cpu = device_in_use()[0] == "cpu" and not recomputes
        return depth if _in_training.get() and cpu and depth <= UNROLLED_DEPTH else 1
    return depth if option == -1 else option
