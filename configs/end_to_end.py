"""Pre-training of launch/end_to_end.sh: Fashion-MNIST, tested on digits while it goes on.

  vit_jax train --config=configs/end_to_end.py:780000 --workdir=workdirs/end_to_end/pretrain

configs/fashion_mnist_vit.py for a number of examples (780,000: its 13 epochs), evaluated five times
on its own test images, and as features for scikit-learn's digits: few-shot (section 4.1 of the
paper), nearest neighbours and a linear probe.
"""

from pathlib import Path

from ml_collections import ConfigDict

from vit_jax.config import duration, evaluation
from vit_jax.config_files import load_config
from vit_jax.errors import InputError


def get_config(arg: str = "780000") -> ConfigDict:
    """The config of "EXAMPLES" or "EXAMPLES,DIR", the folder of Fashion-MNIST's IDX files."""
    number, _, folder = arg.partition(",")
    if not number.isdigit() or int(number) < 10_000:
        raise InputError(f"configs/end_to_end.py:{arg}: give a number of examples, 10000 or more")
    examples = int(number)
    base = Path(__file__).with_name("fashion_mnist_vit.py")
    config = load_config(f"{base}:{folder}" if folder else str(base))
    config.total = duration(examples=examples)
    config.optimizer.warmup = duration(examples=examples // 13)
    config.eval_every = duration(examples=examples // 5)
    config.checkpoint.every = duration(examples=examples // 20)
    config.log.every = 50
    digits = dict(source="digits", train="train[:80%]", test="train[80%:]")
    with config.unlocked():
        config.evals.fewshot = evaluation("fewshot", shots=(5, 10), **digits)
        config.evals.knn = evaluation("knn", **digits)
        config.evals.probe = evaluation("probe", **digits)
    return config
