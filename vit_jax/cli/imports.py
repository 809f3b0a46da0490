"""Quick imports of what takes long: JAX, Flax, Orbax and what is built on them."""

import gc
import importlib
import sys
from types import ModuleType


def import_quickly(name: str) -> ModuleType:
    """Imports a module without collecting garbage meanwhile: a tenth of a start.

    Modules stay; later collections need not look through them either.
    """
    if name in sys.modules or not gc.isenabled():
        return importlib.import_module(name)
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()
        gc.enable()
