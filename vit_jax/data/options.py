"""`config.data`: which images are read, and how."""

import dataclasses

from vit_jax.options import option


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """Options of the training data; evaluations take from here what they do not say."""

    source: str = option(
        "digits",
        "digits, idx:DIR, folder:DIR, npz:FILE, tfds:NAME, tfds:NAME?label=LABEL (another label, "
        "see data/sources/labels.py), or mix:SOURCE*WEIGHT+SOURCE*WEIGHT",
    )
    split: str = option("train", "in the syntax of tfds")
    data_dir: str = option("", 'where tfds looks; "": its default', effect="place")
    cache_dir: str = option(
        "", 'for lists and indices of data; "": beside it or in ~/.cache/vit_jax', effect="place"
    )
    sequential: bool = option(
        False, "read the TFRecord files of tfds front to back; a resume reads again"
    )
    pp: str = option(
        "", 'preprocessing of training images, such as "decode|inception_crop(224)|flip_lr"'
    )
    multi_label: bool = option(False, 'labels are sets of classes; needs loss "sigmoid"')
    shuffle: bool = option(True, "a new order every epoch")
    threads: int = option(
        0, "decoding threads; 0: as many as there are cores", effect="speed", at_least=0
    )
    prefetch: int = option(2, "batches kept ready", effect="speed", at_least=1)
    resident: bool = option(
        False,
        "small sets: images stay on the devices, and augmentation happens there",
        effect="speed",
    )
    max_unreadable: float = option(
        0.01,
        "share of training images that may be damaged, beyond the first ten; more is an error",
        at_least=0,
    )
