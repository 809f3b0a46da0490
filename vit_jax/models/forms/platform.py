"""The devices that a program is traced for."""

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
