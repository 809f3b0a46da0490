"""A run of seconds with all that must survive a restart: dropout, mixup, EMA, augmentation."""

from ml_collections import ConfigDict

from vit_jax.config import default, evaluation


def get_config(steps: str = "300") -> ConfigDict:
    """The config of a run of so many steps."""
    config = default()
    config.model.update(name="ViT-Ti/4", width=128, depth=2, mlp_dim=256, num_heads=4, dropout=0.1)
    config.data.split = "train[:80%]"
    config.data.pp = "resize(8)|random_crop(8, padding=1)|value_range(-1, 1)"
    config.batch_size = 32
    config.total.steps = int(steps)
    config.eval_every.steps = 50
    with config.unlocked():
        config.evals.test = evaluation(split="train[80%:]", batch_size=120, use_ema=True)
    config.mixup.alpha = 0.2
    config.optimizer.ema_decay = 0.9
    config.optimizer.weight_decay = 0.1
    config.optimizer.clip_norm = 1.0
    config.optimizer.warmup.steps = 20
    # Adam divides by gradients' sizes: where they are all but zero, rounding would decide.
    config.optimizer.eps = 1e-3
    config.log.update(every=1, tensorboard=False)
    config.checkpoint.every.steps = 20
    config.checkpoint.keep = 3
    return config
