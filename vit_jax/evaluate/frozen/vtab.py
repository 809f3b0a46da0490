"""VTAB-1k (1910.04867): 19 tasks of 1000 training examples each, as in the paper's table 9.

Splits are slices of the data sets of tfds; labels that tfds does not store are computed by a rule
(see `data.sources.labels`). Hyperparameters are chosen by training on `train800` and testing on
`val200`; the final model is trained on both.
"""

import dataclasses
from collections.abc import Mapping

from vit_jax.errors import unknown

GROUPS = ("natural", "specialized", "structured")


@dataclasses.dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
      title: name in table 9.
      group: one of GROUPS.
      source: value for `config.data.source`.
      train800, val200, test: splits.
      classes: number of classes.
      flip, crop: whether the label stays the same under mirroring and random crops.
      scale: factor that brings pixels to 0..255.
    """

    title: str
    group: str
    source: str
    train800: str
    val200: str
    test: str
    classes: int
    flip: bool = True
    crop: bool = True
    scale: int = 1

    @property
    def train1000(self) -> str:
        """The training examples of the final run."""
        return f"{self.train800}+{self.val200}"


def _natural(title: str, source: str, val200: str, classes: int) -> Task:
    return Task(title, "natural", f"tfds:{source}", "train[:800]", val200, "test", classes)


def _specialized(title: str, source: str, val200: str, test: str, classes: int) -> Task:
    return Task(title, "specialized", f"tfds:{source}", "train[:800]", val200, test, classes)


def _structured(title: str, source: str, val200: str, test: str, classes: int, **how) -> Task:
    return Task(title, "structured", f"tfds:{source}", "train[:800]", val200, test, classes, **how)


_VALIDATION = "validation[:200]"
_CLEVR = ("train[63000:63200]", "validation")
_DSPRITES = ("train[589824:590024]", "train[663552:]")
_NORB = ("test[:200]", "test[50%:]")

TASKS = dict(
    caltech101=_natural("Caltech101", "caltech101:3.*.*", "train[2754:2954]", 102),
    cifar100=_natural("CIFAR-100", "cifar100:3.*.*", "train[45000:45200]", 100),
    dtd=_natural("DTD", "dtd:3.*.*", _VALIDATION, 47),
    flowers=_natural("Flowers102", "oxford_flowers102:2.*.*", _VALIDATION, 102),
    pets=_natural("Pets", "oxford_iiit_pet:3.*.*", "train[2944:3144]", 37),
    sun397=_natural("Sun397", "sun397/tfds:4.*.*", _VALIDATION, 397),
    svhn=_natural("SVHN", "svhn_cropped:3.*.*", "train[65931:66131]", 10),
    camelyon=_specialized("Camelyon", "patch_camelyon:2.*.*", _VALIDATION, "test", 2),
    eurosat=_specialized("EuroSAT", "eurosat/rgb:2.*.*", "train[16200:16400]", "train[21600:]", 10),
    resisc45=_specialized("Resisc45", "resisc45:3.*.*", "train[18900:19100]", "train[25200:]", 45),
    retinopathy=_specialized(
        "Retinopathy", "diabetic_retinopathy_detection/btgraham-300:3.*.*", _VALIDATION, "test", 5
    ),
    clevr_count=_structured("Clevr-Count", "clevr:3.*.*?label=count_all", *_CLEVR, 8, crop=False),
    clevr_distance=_structured(
        "Clevr-Dist", "clevr:3.*.*?label=closest_object_distance", *_CLEVR, 6, crop=False
    ),
    dmlab=_structured("DMLab", "dmlab:2.0.1", _VALIDATION, "test", 6, crop=False),
    dsprites_location=_structured(
        "dSpr-Loc",
        "dsprites:2.*.*?label=label_x_position&bins=16",
        *_DSPRITES,
        16,
        flip=False,
        crop=False,
        scale=255,
    ),
    dsprites_orientation=_structured(
        "dSpr-Ori",
        "dsprites:2.*.*?label=label_orientation&bins=16",
        *_DSPRITES,
        16,
        flip=False,
        scale=255,
    ),
    kitti=_structured(
        "KITTI-Dist", "kitti:3.1.0?label=closest_vehicle_distance", _VALIDATION, "test", 4,
        crop=False,
    ),
    smallnorb_azimuth=_structured(
        "sNORB-Azim", "smallnorb:2.*.*?label=label_azimuth", *_NORB, 18, flip=False
    ),
    smallnorb_elevation=_structured(
        "sNORB-Elev", "smallnorb:2.*.*?label=label_elevation", *_NORB, 9
    ),
)  # fmt: skip


def task(name: str) -> Task:
    """A task by its name in TASKS.

    Raises:
      InputError: there is no task of that name.
    """
    if name not in TASKS:
        raise unknown("VTAB task", name, TASKS)
    return TASKS[name]


def preprocessing(task: Task, size: int) -> tuple[str, str]:
    """Operations for training and for evaluation at `size` pixels, as in BiT (1912.11370)."""
    scale = f"multiply({task.scale})|" if task.scale > 1 else ""
    crop = f"resize({round(size * 7 / 6)})|random_crop({size})" if task.crop else f"resize({size})"
    flip = "|flip_lr" if task.flip else ""
    after = "|value_range(-1, 1)"
    return f"decode|{scale}{crop}{flip}{after}", f"decode|{scale}resize({size}){after}"


def group_means(accuracies: Mapping[str, float]) -> dict[str, float]:
    """Means over the tasks of each group, and over all 19.

    Args:
      accuracies: accuracy by name in TASKS.

    Returns:
      Means by name, GROUPS and "mean"; a mean is left out if one of its tasks is missing.

    Raises:
      InputError: an unknown task.
    """
    for name in accuracies:
        task(name)
    members = {group: [n for n, t in TASKS.items() if t.group == group] for group in GROUPS}
    members["mean"] = list(TASKS)
    return {
        group: sum(accuracies[name] for name in names) / len(names)
        for group, names in members.items()
        if all(name in accuracies for name in names)
    }
