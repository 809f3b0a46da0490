"""The kind of device that a program is traced for."""

import jax


def platform() -> str:
    """cpu, gpu or tpu: where the program runs that is being traced.

    It is the platform of the mesh in use, which may be one to compile for that is not present;
    without a mesh, the default platform of this process.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is None:
        return jax.default_backend()
    kind = device.device_kind.lower()
    return kind if kind == "cpu" else "tpu" if kind.startswith("tpu") else "gpu"


def on_tpu() -> bool:
    """Whether the program that is being traced runs on TPUs."""
    return platform() == "tpu"
