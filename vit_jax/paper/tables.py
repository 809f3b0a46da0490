"""Tables 1 to 9 of the ViT paper (2010.11929) as data, as printed there.

Below, rows are lines and columns are separated by bars; "-" is an empty cell and
"88.55+-.04" a mean and its standard deviation.
"""

import dataclasses
import re

from vit_jax.errors import unknown

Key = tuple[str, str]  # row, column


@dataclasses.dataclass(frozen=True)
class Printed:
    """One cell as the paper prints it."""

    text: str
    value: float | str
    std: float | None = None  # over fine-tuning runs

    @property
    def decimals(self) -> int:
        """Number of digits after the decimal point."""
        mean = self.text.partition("+-")[0]
        return len(mean.partition(".")[2]) if isinstance(self.value, float) else 0


@dataclasses.dataclass(frozen=True)
class Table:
    """One table: rows and columns in the paper's order, and the cells that are not empty."""

    number: int
    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: dict[Key, Printed]


def _table(number: int, title: str, text: str) -> Table:
    header, *lines = [
        [field.strip() for field in line.split("|")] for line in text.strip().splitlines()
    ]
    columns = tuple(header[1:])
    cells = {}
    for row, *fields in lines:
        for column, field in zip(columns, fields, strict=True):
            if field != "-":
                cells[row, column] = _printed(field)
    return Table(number, title, tuple(line[0] for line in lines), columns, cells)


def _printed(text: str) -> Printed:
    number = re.fullmatch(r"([\d.]+(?:e-\d+)?)(?:\+-([\d.]+))?", text)
    if not number:
        return Printed(text, text)
    value, std = number.groups()
    return Printed(text, float(value), float(std) if std else None)


_TABLES = (
    _table(
        1,
        "Vision Transformer variants (Ti, S, g and G: 2106.10270, 2106.04560)",
        """
        | Layers | Hidden size D | MLP size | Heads | Params (M)
        ViT-Ti | 12 | 192 | 768 | 3 | -
        ViT-S | 12 | 384 | 1536 | 6 | -
        ViT-Base | 12 | 768 | 3072 | 12 | 86
        ViT-Large | 24 | 1024 | 4096 | 16 | 307
        ViT-Huge | 32 | 1280 | 5120 | 16 | 632
        ViT-g | 40 | 1408 | 6144 | 16 | -
        ViT-G | 48 | 1664 | 8192 | 16 | -
        """,
    ),
    _table(
        2,
        "Comparison with the state of the art: top-1 after fine-tuning (three runs)",
        """
        | H/14 JFT | L/16 JFT | L/16 I21k | BiT-L R152x4 | Noisy Student L2
        ImageNet | 88.55+-.04 | 87.76+-.03 | 85.30+-.02 | 87.54+-.02 | 88.4/88.5
        ImageNet ReaL | 90.72+-.05 | 90.54+-.03 | 88.62+-.05 | 90.54 | 90.55
        CIFAR-10 | 99.50+-.06 | 99.42+-.03 | 99.15+-.03 | 99.37+-.06 | -
        CIFAR-100 | 94.55+-.04 | 93.90+-.05 | 93.25+-.05 | 93.51+-.08 | -
        Oxford-IIIT Pets | 97.56+-.03 | 97.32+-.11 | 94.67+-.15 | 96.62+-.23 | -
        Oxford Flowers-102 | 99.68+-.02 | 99.74+-.00 | 99.61+-.02 | 99.63+-.03 | -
        VTAB (19 tasks) | 77.63+-.23 | 76.28+-.46 | 72.72+-.21 | 76.29+-1.70 | -
        TPUv3-core-days | 2500 | 680 | 230 | 9900 | 12300
        """,
    ),
    _table(
        3,
        "Pre-training: batch 4096, 224 pixels, warm-up of 10k steps",
        """
        | Epochs | Base LR | LR decay | Weight decay | Dropout
        JFT ViT-B/16 | 7 | 8e-4 | linear | 0.1 | 0.0
        JFT ViT-B/32 | 7 | 8e-4 | linear | 0.1 | 0.0
        JFT ViT-L/32 | 7 | 6e-4 | linear | 0.1 | 0.0
        JFT ViT-L/16 | 14 | 4e-4 | linear | 0.1 | 0.0
        JFT ViT-H/14 | 14 | 3e-4 | linear | 0.1 | 0.0
        JFT BiT-R50x1 | 7 | 1e-3 | linear | 0.1 | 0.0
        JFT BiT-R50x2 | 7 | 1e-3 | linear | 0.1 | 0.0
        JFT BiT-R101x1 | 7 | 8e-4 | linear | 0.1 | 0.0
        JFT BiT-R152x1 | 7 | 6e-4 | linear | 0.1 | 0.0
        JFT BiT-R152x2 | 7 | 6e-4 | linear | 0.1 | 0.0
        JFT R50+ViT-B/16 | 7 | 8e-4 | linear | 0.1 | 0.0
        JFT R50+ViT-B/32 | 7 | 8e-4 | linear | 0.1 | 0.0
        JFT R50+ViT-L/32 | 7 | 2e-4 | linear | 0.1 | 0.0
        JFT R50+ViT-L/16 | 14 | 4e-4 | linear | 0.1 | 0.0
        ImageNet-21k ViT-B/16 | 90 | 1e-3 | linear | 0.03 | 0.1
        ImageNet-21k ViT-B/32 | 90 | 1e-3 | linear | 0.03 | 0.1
        ImageNet-21k ViT-L/16 | 90 | 1e-3 | linear | 0.03 | 0.1
        ImageNet-21k ViT-L/32 | 90 | 1e-3 | linear | 0.03 | 0.1
        ImageNet ViT-B/16 | 300 | 3e-3 | cosine | 0.3 | 0.1
        ImageNet ViT-L/16 | 300 | 3e-3 | cosine | 0.3 | 0.1
        """,
    ),
    _table(
        4,
        "Fine-tuning: SGD with momentum .9, cosine decay, batch 512, 384 pixels",
        """
        | Steps | Base LR
        ImageNet | 20000 | .003 .01 .03 .06
        CIFAR-100 | 10000 | .001 .003 .01 .03
        CIFAR-10 | 10000 | .001 .003 .01 .03
        Oxford-IIIT Pets | 500 | .001 .003 .01 .03
        Oxford Flowers-102 | 500 | .001 .003 .01 .03
        VTAB (19 tasks) | 2500 | .01
        """,
    ),
    _table(
        5,
        "Top-1 after pre-training on three data sets and fine-tuning at 384 pixels",
        """
        | ViT-B/16 | ViT-B/32 | ViT-L/16 | ViT-L/32 | ViT-H/14
        ImageNet: CIFAR-10 | 98.13 | 97.77 | 97.86 | 97.94 | -
        ImageNet: CIFAR-100 | 87.13 | 86.31 | 86.35 | 87.07 | -
        ImageNet: ImageNet | 77.91 | 73.38 | 76.53 | 71.16 | -
        ImageNet: ImageNet ReaL | 83.57 | 79.56 | 82.19 | 77.83 | -
        ImageNet: Oxford Flowers-102 | 89.49 | 85.43 | 89.66 | 86.36 | -
        ImageNet: Oxford-IIIT Pets | 93.81 | 92.04 | 93.64 | 91.35 | -
        ImageNet-21k: CIFAR-10 | 98.95 | 98.79 | 99.16 | 99.13 | 99.27
        ImageNet-21k: CIFAR-100 | 91.67 | 91.97 | 93.44 | 93.04 | 93.82
        ImageNet-21k: ImageNet | 83.97 | 81.28 | 85.15 | 80.99 | 85.13
        ImageNet-21k: ImageNet ReaL | 88.35 | 86.63 | 88.40 | 85.65 | 88.70
        ImageNet-21k: Oxford Flowers-102 | 99.38 | 99.11 | 99.61 | 99.19 | 99.51
        ImageNet-21k: Oxford-IIIT Pets | 94.43 | 93.02 | 94.73 | 93.09 | 94.82
        JFT: CIFAR-10 | 99.00 | 98.61 | 99.38 | 99.19 | 99.50
        JFT: CIFAR-100 | 91.87 | 90.49 | 94.04 | 92.52 | 94.55
        JFT: ImageNet | 84.15 | 80.73 | 87.12 | 84.37 | 88.04
        JFT: ImageNet ReaL | 88.85 | 86.27 | 89.99 | 88.28 | 90.33
        JFT: Oxford Flowers-102 | 99.56 | 99.27 | 99.56 | 99.45 | 99.68
        JFT: Oxford-IIIT Pets | 95.80 | 93.40 | 97.11 | 95.83 | 97.56
        """,
    ),
    _table(
        6,
        "Models pre-trained on JFT: top-1 after fine-tuning, and the cost of pre-training",
        """
        | ImageNet | ImageNet ReaL | CIFAR-10 | CIFAR-100 | Pets | Flowers | exaFLOPs
        ViT-B/32, 7 epochs | 80.73 | 86.27 | 98.61 | 90.49 | 93.40 | 99.27 | 55
        ViT-B/16, 7 epochs | 84.15 | 88.85 | 99.00 | 91.87 | 95.80 | 99.56 | 224
        ViT-L/32, 7 epochs | 84.37 | 88.28 | 99.19 | 92.52 | 95.83 | 99.45 | 196
        ViT-L/16, 7 epochs | 86.30 | 89.43 | 99.38 | 93.46 | 96.81 | 99.66 | 783
        ViT-L/16, 14 epochs | 87.12 | 89.99 | 99.38 | 94.04 | 97.11 | 99.56 | 1567
        ViT-H/14, 14 epochs | 88.08 | 90.36 | 99.50 | 94.71 | 97.11 | 99.71 | 4262
        BiT-R50x1, 7 epochs | 77.54 | 84.56 | 97.67 | 86.07 | 91.11 | 94.26 | 50
        BiT-R50x2, 7 epochs | 82.12 | 87.94 | 98.29 | 89.20 | 93.43 | 97.02 | 199
        BiT-R101x1, 7 epochs | 80.67 | 87.07 | 98.48 | 89.17 | 94.08 | 95.95 | 96
        BiT-R152x1, 7 epochs | 81.88 | 87.96 | 98.82 | 90.22 | 94.17 | 96.94 | 141
        BiT-R152x2, 7 epochs | 84.97 | 89.69 | 99.06 | 92.05 | 95.37 | 98.62 | 563
        BiT-R152x2, 14 epochs | 85.56 | 89.89 | 99.24 | 91.92 | 95.75 | 98.75 | 1126
        BiT-R200x3, 14 epochs | 87.22 | 90.15 | 99.34 | 93.53 | 96.32 | 99.04 | 3306
        R50+ViT-B/32, 7 epochs | 84.90 | 89.15 | 99.01 | 92.24 | 95.75 | 99.46 | 106
        R50+ViT-B/16, 7 epochs | 85.58 | 89.65 | 99.14 | 92.63 | 96.65 | 99.40 | 274
        R50+ViT-L/32, 7 epochs | 85.68 | 89.04 | 99.24 | 92.93 | 96.97 | 99.43 | 246
        R50+ViT-L/16, 7 epochs | 86.60 | 89.72 | 99.18 | 93.64 | 97.03 | 99.40 | 859
        R50+ViT-L/16, 14 epochs | 87.12 | 89.76 | 99.31 | 93.89 | 97.36 | 99.11 | 1668
        """,
    ),
    _table(
        7,
        "ResNets pre-trained on JFT with Adam and with SGD: top-1 after fine-tuning",
        """
        | R50x1 Adam | R50x1 SGD | R152x2 Adam | R152x2 SGD
        ImageNet | 77.54 | 78.24 | 84.97 | 84.37
        CIFAR-10 | 97.67 | 97.46 | 99.06 | 99.07
        CIFAR-100 | 86.07 | 85.17 | 92.05 | 91.06
        Oxford-IIIT Pets | 91.11 | 91.00 | 95.37 | 94.79
        Oxford Flowers-102 | 94.26 | 92.06 | 98.62 | 99.32
        Average | 89.33 | 88.79 | 94.01 | 93.72
        """,
    ),
    _table(
        8,
        "Position embeddings: ViT-B/16, ImageNet 5-shot linear",
        """
        | Stem | Every layer | Every layer, shared
        None | .61382 | - | -
        1-D | .64206 | .63964 | .64292
        2-D | .64001 | .64046 | .64022
        Relative | .64032 | - | -
        """,
    ),
    _table(
        9,
        "VTAB-1k: top-1 of each task",
        """
        | H/14 JFT | L/16 JFT | L/16 I21k
        Caltech101 | 95.3 | 95.4 | 90.8
        CIFAR-100 | 85.5 | 81.9 | 84.1
        DTD | 75.2 | 74.3 | 74.1
        Flowers102 | 99.7 | 99.7 | 99.3
        Pets | 97.2 | 96.7 | 92.7
        Sun397 | 65.0 | 63.5 | 61.0
        SVHN | 88.9 | 87.4 | 80.9
        Camelyon | 83.3 | 83.6 | 82.5
        EuroSAT | 96.7 | 96.5 | 95.6
        Resisc45 | 91.4 | 89.7 | 85.2
        Retinopathy | 76.6 | 77.1 | 75.3
        Clevr-Count | 91.7 | 86.4 | 70.3
        Clevr-Dist | 63.8 | 63.1 | 56.1
        DMLab | 53.1 | 49.7 | 41.9
        dSpr-Loc | 79.4 | 74.5 | 74.7
        dSpr-Ori | 63.3 | 60.5 | 64.9
        KITTI-Dist | 84.5 | 82.2 | 79.9
        sNORB-Azim | 33.2 | 36.2 | 30.5
        sNORB-Elev | 51.2 | 51.1 | 41.7
        Mean | 77.6 | 76.3 | 72.7
        """,
    ),
)
TABLES = {table.number: table for table in _TABLES}


def table(number: int) -> Table:
    """A table by its number in the paper.

    Raises:
      InputError: the paper has no such table.
    """
    if number not in TABLES:
        raise unknown("table", number, map(str, TABLES))
    return TABLES[number]
