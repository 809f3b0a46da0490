"""The configs of the runs in runs.tar.xz, by kind."""

from vit_jax import config as configs

KINDS = {
    "pjit": {"parallel.tensor": 2},
    "pmap": {"parallel.engine": "pmap"},
    "ema": {"optimizer.ema_decay": 0.5, "parallel.tensor": 2},
    "masked": {"task": "masked"},
    "hybrid": {
        "model.name": "R26+ViT-Ti/32", "model.resnet_stages": (1,), "model.patch_size": 2,
        "data.pp": "resize(16)|value_range(-1, 1)", "optimizer.name": "sgd",
    },
}  # fmt: skip


def get_config(kind):
    config = configs.default()
    config.model.update(name="ViT-Ti/4", width=16, depth=2, mlp_dim=32, num_heads=2, dropout=0.1)
    config.data.pp = "resize(8)|random_crop(8, padding=1)|value_range(-1, 1)"
    config.data.split = "train[:80%]"
    config.batch_size = 16
    config.total.steps = 6
    config.optimizer.learning_rate = 0.01
    config.log.update(every=1, tensorboard=False)
    config.checkpoint.keep = 1
    config.update_from_flattened_dict(KINDS[kind])
    ema = config.optimizer.ema_decay > 0
    with config.unlocked():
        config.evals.test = configs.evaluation(split="train[80%:]", batch_size=64, use_ema=ema)
    return config
