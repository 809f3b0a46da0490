"""Fine-tune any weights on any images; what is not given is chosen, and each choice printed.

  vit_jax train --config=configs/images.py:WEIGHTS,DATA --workdir=workdirs/mine

WEIGHTS is a hub id, a weight file, a workdir or a checkpoint. DATA is a data source, such as
folder:photos. `vit_jax finetune WEIGHTS DATA` writes this command. The argument may go on with
epochs=N, image_size=PIXELS and options of the data, such as data.nested=top; every other option is
set as --config.OPTION=VALUE. The rules of the choices are in vit_jax/finetune/choices.py and
docs/finetuning.md.
"""

from ml_collections import ConfigDict

from vit_jax.errors import InputError
from vit_jax.finetune.config import FORM, images_config


def get_config(arg: str = "") -> ConfigDict:
    """The config for WEIGHTS,DATA."""
    if not arg:
        raise InputError(f"configs/images.py names no weights and images: configs/images.py:{FORM}")
    return images_config(arg)
