"""The devices of a topology: from the compiler where it has them, else described."""

import dataclasses

import jax

from vit_jax.plan.analytic.devices import describe_devices, generation, is_gpus
from vit_jax.plan.compile import compiler_found, topology_devices


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices to plan for.

    Attributes:
      devices: the devices.
      why: why a step cannot be compiled for them, in one line; "" if it can.
    """

    devices: list[jax.Device]
    why: str

    @property
    def analytic(self) -> bool:
        """Whether only the formulas can plan for these devices."""
        return bool(self.why)


def find_topology(name: str, slices: int = 1) -> Topology:
    """The devices of a topology such as "v5e:16x16" or "h100:8x8".

    Raises:
      InputError: no such topology.
    """
    generation(name)
    if is_gpus(name):
        why = "XLA's compiler for GPUs is a part of JAX's CUDA plugin and is not used"
        return Topology(describe_devices(name, slices), why)
    if not compiler_found():
        why = "the compiler for TPUs is not installed: pip install 'vit_jax[plan]'"
        return Topology(describe_devices(name, slices), why)
    return Topology(topology_devices(name, slices), "")
