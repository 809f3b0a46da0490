"""`config.data`: the options for reading images."""

import dataclasses

from vit_jax.data.ops.image_files import MAX_PIXELS
from vit_jax.options import option


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """Options of the training data, also used by evaluations that have no option of the name."""

    source: str = option(
        "digits",
        "data source: digits, idx:DIR, folder:DIR, folder:DIR?label=REGEX (class in the file "
        "name), npz:FILE, csv:FILE, parquet:FILES, hf:NAME, hf:DIR, wds:SHARDS, "
        "wds:SHARDS?label=FIELD (of KEY.json), tfds:NAME, tfds:NAME?label=LABEL (another label, "
        "see data/sources/labels.py), or "
        "mix:SOURCE*WEIGHT+SOURCE*WEIGHT",
    )
    split: str = option("train", "training split in tfds syntax, such as train or train[:90%]")
    data_dir: str = option("", 'folder of tfds data; "": the default of tfds', effect="place")
    cache_dir: str = option(
        "",
        'folder for cached file lists and record indices; "": beside the data, or ~/.cache/vit_jax',
        effect="place",
    )
    sequential: bool = option(
        False,
        "read TFRecord files of tfds from front to back; a resumed run rereads part of an epoch",
    )
    pp: str = option(
        "", 'preprocessing of training images, such as "decode|inception_crop(224)|flip_lr"'
    )
    multi_label: bool = option(False, 'labels are sets of classes; needs loss "sigmoid"')
    balance: float = option(
        0.0,
        "how far rare classes are drawn more often, from 0 (frequencies of the data) to 1 (every "
        "class alike): a class of n examples is drawn in proportion to n ** (1 - balance)",
        at_least=0,
    )
    shuffle: bool = option(True, "shuffle the examples in a new order every epoch")
    threads: int = option(
        0, "number of decoding threads; 0: one per core", effect="speed", at_least=0
    )
    prefetch: int = option(2, "number of batches prepared ahead", effect="speed", at_least=1)
    resident: bool = option(
        False,
        "keep the images on the devices and augment them there, for small data sets",
        effect="speed",
    )
    max_unreadable: float = option(
        0.01,
        "largest share of unreadable images, in training and in evaluations of accuracy; unless 0, "
        "ten different ones (in small data sets a tenth of all, at least one) are always allowed",
        at_least=0,
    )
    max_pixels: int = option(
        MAX_PIXELS,
        "largest number of pixels (height x width) of an image file; a larger one is unreadable",
        at_least=1,
    )
    nested: str = option(
        "no",
        'folder: images in folders below class folders: "no": not read; "top": of that class; '
        '"path": each folder that holds images is a class, named by its path',
        choices=("no", "top", "path"),
    )
    follow_links: bool = option(
        False,
        "folder, csv: follow symbolic links and paths that leave the data folder",
        effect="place",
    )
