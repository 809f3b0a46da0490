"""Train a model from scratch on your own images.

  vit_jax train --config=configs/scratch.py:ViT-S/16,folder:photos --workdir=workdirs/photos

The argument is MODEL,DATA: a name of `vit_jax models` and a data source. It may go on with
image_size=PIXELS and epochs=N. Splits are found, or held out, as `vit_jax finetune` does. The
recipe is that of configs/vit_s16_i1k.py (2205.01580), with learning rate and warm-up in
proportion to a smaller batch and a shorter run. Options of the model make it smaller, as
--config.model.width=64. With fewer than some ten thousand images, published weights do much
better: `vit_jax finetune WEIGHTS DATA`.
"""

from ml_collections import ConfigDict

from vit_jax.config import default, duration, evaluation
from vit_jax.config_files import set_option
from vit_jax.errors import InputError
from vit_jax.finetune.choices import best_metric, hold_out
from vit_jax.finetune.facts import look_at_devices, look_at_images
from vit_jax.models.variants import canonical_name

FORM = "MODEL,DATA[,image_size=PIXELS][,epochs=N]"
NUMBERS = {"image_size": 224, "epochs": 90}
LARGEST_BATCH = {True: 1024, False: 64}  # with and without accelerators


def get_config(arg: str = "") -> ConfigDict:
    """The config of "MODEL,DATA,image_size=PIXELS,epochs=N"."""
    numbers = dict(NUMBERS)
    model, *parts = arg.split(",")
    while parts and parts[-1].partition("=")[0] in NUMBERS:
        name, _, text = parts.pop().partition("=")
        if not text.isdigit() or not int(text):
            raise InputError(f"configs/scratch.py: {name}={text}: give a whole number above 0")
        numbers[name] = int(text)
    if not model or not parts:
        raise InputError(f"configs/scratch.py:{arg}: write configs/scratch.py:{FORM}")
    size = numbers["image_size"]
    config = default()
    config.model.name = canonical_name(model)
    config.model.image_size = size
    config.data.source = ",".join(parts)
    with config.unlocked():
        config.evals.test = evaluation()
    images = look_at_images(config)
    for choice in hold_out(images):
        set_option(config, choice.option, str(choice.value))

    small = size < 64  # boxes cut from small images show too little
    crop = f"resize({size})|random_crop({size}, padding={max(size // 14, 1)})"
    augmented = crop if small else f"inception_crop({size})|flip_lr|randaug(2, 10, published=True)"
    config.data.pp = f"decode|{augmented}|value_range(-1, 1)"
    larger = size if small else round(size * 8 / 7)
    whole = f"resize({size})" if small else f"resize_small({larger})|central_crop({size})"
    config.evals.test.pp = f"decode|{whole}|value_range(-1, 1)"

    accelerated = look_at_devices().accelerators
    config.batch_size = LARGEST_BATCH[accelerated]
    config.total = duration(epochs=float(numbers["epochs"]))
    config.eval_every = duration(epochs=1.0)
    config.checkpoint.best = best_metric(images)
    if accelerated:
        config.model.dtype = "bfloat16"
    if not config.model.name.startswith("BiT"):
        config.model.head = "gap"
        config.model.posemb = "sincos2d"
    if images.multi_label:
        config.loss.name = "sigmoid"
    else:
        config.mixup.alpha = 0.2
    config.optimizer.name = "adamw"
    # 1e-3 at batch 1024, by the square root of the batch (2205.10287).
    config.optimizer.learning_rate = float(f"{1e-3 * (config.batch_size / 1024) ** 0.5:.2g}")
    config.optimizer.weight_decay = 0.1
    config.optimizer.warmup = duration(epochs=numbers["epochs"] / 10)
    config.optimizer.clip_norm = 1.0
    return config
