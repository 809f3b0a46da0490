"""The config of a tiny run on digits, for the tests of distillation."""

from vit_jax import config as configs

TINY = dict(name="ViT-Ti/4", width=32, depth=1, mlp_dim=64, num_heads=2)


def run_config(steps, **options):
    """A run of `steps` on four fifths of the digits."""
    config = configs.default()
    config.model.update(TINY)
    config.data.pp = "resize(8)|value_range(-1, 1)"
    config.data.split = "train[:80%]"
    config.batch_size = 64
    config.total.steps = steps
    config.optimizer.learning_rate = 5e-3
    config.log.update(every=5, tensorboard=False)
    config.update_from_flattened_dict(options)
    return config
