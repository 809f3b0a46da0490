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


# Blocks up to which training has no loop, by platform. Without one a step of ViT-Ti/16 takes a
# seventh less time on CPUs; on TPUs XLA's estimate of L/16 falls by 5 to 19%. Compiling takes
# longer, on TPUs up to three and a half times: docs/performance.md.
UNROLLED_DEPTH = {"cpu": 12, "tpu": 24}


_in_training: ContextVar[bool] = ContextVar("in_training", default=False)


@contextlib.contextmanager
def training_form(training: bool = True) -> Iterator[None]:
    """What is traced within has the form that is fastest together with its gradient.

    Args:
      training: False within a training step: for a part without a gradient, such as a teacher.
    """
    token = _in_training.set(training)
    try:
        yield
    finally:
        _in_training.reset(token)


def unrolled(option: int, depth: int, *, remat: str = "none") -> int:
    """The number of blocks per iteration of the loop over blocks, in what is being traced.

    Args:
      option: `model.unroll`: a number, -1: all, 0: see `unrolled_in_training`; a loop in inference,
        where it costs nothing.
      depth: number of blocks.
      remat: policy of remat; see `remat.resolve`.
    """
    if option == 0 and not _in_training.get():
        return 1
    fsdp = dict(jax.sharding.get_abstract_mesh().shape).get("fsdp", 1)
    return unrolled_in_training(option, depth, device_in_use()[0], remat=remat, fsdp=fsdp)


def unrolled_in_training(option: int, depth: int, platform: str, *, remat: str, fsdp: int) -> int:
    """The number of blocks per iteration of the loop over blocks in a training step.

    By default there is no loop where one costs time. On CPUs it copies what gradients need into
    stacked arrays; with remat it stays, since without a loop XLA may compute all of the blocks
    ahead. On TPUs it does too, and XLA for v5e gathers sharded weights less often without one;
    policies other than `names` are there to save memory, and a loop saves the most.

    Args:
      option: `model.unroll`: a number, -1: all, 0: by the rest.
      depth: number of blocks.
      platform: cpu, gpu or tpu.
      remat: policy of remat; see `remat.resolve`.
      fsdp: number of devices over which parameters are sharded.
    """
    if option == 0:
        suits = {"cpu": remat == "none", "tpu": remat == "names" and fsdp > 1}
        return depth if suits.get(platform) and depth <= UNROLLED_DEPTH[platform] else 1
    return depth if option == -1 else option
