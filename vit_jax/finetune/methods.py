"""Ways of fine-tuning by name: which options of a run each of them sets."""

from collections.abc import Callable

from ml_collections import ConfigDict

from vit_jax import options
from vit_jax.registry import Registry
from vit_jax.train.optim.frozen import HEAD
from vit_jax.weights.adapters.lora import LoraOptions

# Name -> function that sets the options of a config; user files may add some.
METHODS: Registry[Callable[[ConfigDict], None]] = Registry("method of fine-tuning")
RANK = 8  # of LoRA, where the config has none


def apply_method(config: ConfigDict, name: str) -> None:
    """Sets the options by which a method of fine-tuning differs from the others.

    * full: all parameters.
    * lora: a LoRA adapter and the head (2106.09685); `config.lora` has its options.
    * head: the head alone, on images augmented as the config says.
    * bias: all biases and the head (BitFit, 2106.10199).
    * probe: the head alone as in a linear evaluation: SGD with momentum 0.9 and a cosine down to
      0, without weight decay, clipping, mixup, label smoothing and dropout.

    The learning rate stays as the config has it. LoRA, biases and heads commonly take ten times
    that of full fine-tuning.

    Args:
      config: config of a run; it is changed.
      name: name in `METHODS`.

    Raises:
      InputError: an unknown name.
    """
    METHODS[name](config)


def _train(config: ConfigDict, *patterns: str, rank: int = 0) -> None:
    """Trains what matches the patterns; () for the usual choice."""
    config.optimizer.train = patterns
    if not rank:  # its other options would be refused
        config.lora.update(options.section(LoraOptions))
    config.lora.rank = rank


@METHODS.register("full")
def _full(config: ConfigDict) -> None:
    _train(config)


@METHODS.register("lora")
def _lora(config: ConfigDict) -> None:
    _train(config, rank=config.lora.rank or RANK)


@METHODS.register("head")
def _head(config: ConfigDict) -> None:
    _train(config, HEAD)


@METHODS.register("bias")
def _bias(config: ConfigDict) -> None:
    _train(config, r".*/bias", HEAD)


@METHODS.register("probe")
def _probe(config: ConfigDict) -> None:
    _train(config, HEAD)
    config.optimizer.update(name="sgd", momentum=0.9, nesterov=False)
    config.optimizer.update(weight_decay=0.0, clip_norm=0.0, schedule="cosine", end_value=0.0)
    for kind in ("warmup", "cooldown"):
        config.optimizer[kind].update(steps=0, epochs=None, examples=None)
    config.mixup.update(alpha=0.0, cutmix_alpha=0.0)
    config.loss.label_smoothing = 0.0
    for rate in ("dropout", "attention_dropout", "stochastic_depth"):
        if config.model[rate]:
            config.model[rate] = 0.0
