"""VTAB-1k as in the ViT paper (2010.11929, table 9): fine-tuning on 1000 images, by task.

  vit_jax train --config=configs/vtab.py:ViT-L/16,pets --workdir=workdirs/vtab/pets \\
      --config.init_from=ViT-L_16.npz

Tasks: the keys of vit_jax.evaluate.frozen.vtab.TASKS. Only this final run uses the test set; to
choose settings, train on 800 of the images and test on the other 200:

  vit_jax train --config=configs/vtab.py:ViT-L/16,pets,select --workdir=workdirs/vtab_dev/pets

384 pixels, learning rate .01, 2500 steps (AugReg, 2106.10270, also tries four learning rates
and 500 steps). `vit_jax tables 9 --run` runs all tasks. Published top-1 (table 9):

                        H/14 JFT   L/16 JFT   L/16 I21k
  caltech101                95.3       95.4        90.8
  cifar100                  85.5       81.9        84.1
  dtd                       75.2       74.3        74.1
  flowers                   99.7       99.7        99.3
  pets                      97.2       96.7        92.7
  sun397                    65.0       63.5        61.0
  svhn                      88.9       87.4        80.9
  camelyon                  83.3       83.6        82.5
  eurosat                   96.7       96.5        95.6
  resisc45                  91.4       89.7        85.2
  retinopathy               76.6       77.1        75.3
  clevr_count               91.7       86.4        70.3
  clevr_distance            63.8       63.1        56.1
  dmlab                     53.1       49.7        41.9
  dsprites_location         79.4       74.5        74.7
  dsprites_orientation      63.3       60.5        64.9
  kitti                     84.5       82.2        79.9
  smallnorb_azimuth         33.2       36.2        30.5
  smallnorb_elevation       51.2       51.1        41.7
  mean                      77.6       76.3        72.7
"""

from ml_collections import ConfigDict

from vit_jax.config import default, duration, evaluation
from vit_jax.errors import InputError
from vit_jax.evaluate.frozen import vtab
from vit_jax.models.variants import canonical_name


def get_config(arg: str = "ViT-B/16,pets") -> ConfigDict:
    """The config for "MODEL,TASK", or "MODEL,TASK,select" to choose settings on 200 images."""
    model, _, rest = arg.partition(",")
    name, _, select = rest.partition(",")
    if not name or select not in ("", "select"):
        raise InputError(f"configs/vtab.py:{arg}: write :MODEL,TASK or :MODEL,TASK,select")
    task = vtab.task(name)
    config = default()
    config.model.name = canonical_name(model)
    config.model.num_classes = task.classes
    config.model.dtype = "bfloat16"
    config.init_from = config.model.name.replace("/", "_") + ".npz"
    config.total = duration(steps=2500)
    config.batch_size = 512
    config.checkpoint.every = duration(steps=500)

    patch = int(config.model.name.partition("/")[2] or 1)
    config.data.source = task.source
    config.data.pp, pp = vtab.preprocessing(task, 384 // patch * patch)
    with config.unlocked():
        if select:
            config.data.split = task.train800
            config.evals.val = evaluation(split=task.val200, pp=pp)
        else:
            config.data.split = task.train1000
            config.evals.test = evaluation(split=task.test, pp=pp)

    config.optimizer.name = "sgd"
    config.optimizer.momentum = 0.9
    config.optimizer.learning_rate = 0.01
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = duration(steps=500)
    config.optimizer.clip_norm = 1.0
    return config
