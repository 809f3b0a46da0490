"""Figures that authors publish for their weights, from files of their repositories."""

import csv
import io
import re
import subprocess
from pathlib import Path

# Key of a source -> repository and file.
SOURCES = dict(
    timm=("huggingface/pytorch-image-models", "results/results-imagenet.csv"),
    dinov2=("facebookresearch/dinov2", "README.md"),
    dinov3=("facebookresearch/dinov3", "MODEL_CARD.md"),
    aim=("apple/ml-aim", "README.md"),
    vit=("google-research/vision_transformer", "README.md"),
)
_SIZES = dict(S="small", B="base", L="large", g="giant")
_DINOV3 = {
    "ViT-S/16": ("vits16", "vit_small_patch16"),
    "ViT-S+/16": ("vits16plus", "vit_small_plus_patch16"),
    "ViT-B/16": ("vitb16", "vit_base_patch16"),
    "ViT-L/16": ("vitl16", "vit_large_patch16"),
    "ViT-H+/16": ("vith16plus", "vit_huge_plus_patch16"),
    "ViT-7B/16": ("vit7b16", "vit_7b_patch16"),
}


def figures(mirrors: Path) -> dict[str, tuple[str, str]]:
    """Name for `load` -> (figures such as "k-NN 79.0, linear 81.1", key of their source)."""
    texts = {key: _shown(mirrors, *where) for key, where in SOURCES.items()}
    found: dict[str, tuple[str, str]] = {}
    for key, read in READERS.items():
        found |= {name: (figure, key) for name, figure in read(texts[key]).items()}
    return found


def commits(mirrors: Path) -> dict[str, str]:
    """Key of a source -> "repository@commit file"."""
    return {
        key: f"{name}@{_git(mirrors, name, 'rev-parse', '--short=10', 'HEAD').strip()} {file}"
        for key, (name, file) in SOURCES.items()
    }


def augreg(mirrors: Path) -> list[tuple[str, str, str, str]]:
    """Model, pre-trained file, fine-tuned file and top-1 of each row of the README's table."""
    return re.findall(
        r"^\|\s*([\w+/]+)\s*\| `(gs://\S+npz)`.*?`(gs://\S+npz)`.*?([\d.]+)%",
        _shown(mirrors, *SOURCES["vit"]),
        re.MULTILINE,
    )


def _git(mirrors: Path, repository: str, *arguments: str) -> str:
    folder = mirrors / repository.replace("/", "+") / "repo"
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _shown(mirrors: Path, repository: str, file: str) -> str:
    return _git(mirrors, repository, "show", f"HEAD:{file}")


def _timm(text: str) -> dict[str, str]:
    """Evaluations by timm with the classifier of the weights; tags say how it was trained."""
    found = {}
    for row in csv.DictReader(io.StringIO(text)):
        tag = row["model"].partition(".")[2]
        kind = "fine-tuned" if "_ft_" in tag or tag.startswith("ft_") else "supervised"
        found[f"timm/{row['model']}"] = f"{kind} {float(row['top1']):.2f}"
    return found


def _dinov2(text: str) -> dict[str, str]:
    """The first table, of backbones without and with registers."""
    rows = re.findall(
        r"<td>ViT-(\w)/14.*?(:x:|:white_check_mark:).*?>([\d.]+)%.*?>([\d.]+)%",
        text.split("</table>")[0],
        re.DOTALL,
    )
    found = {}
    for letter, registers, nearest, linear in rows:
        reg, infix = ("_reg4", "-with-registers") if registers != ":x:" else ("", "")
        figure = f"k-NN {nearest}, linear {linear}"
        found[f"timm/vit_{_SIZES[letter]}_patch14{reg}_dinov2.lvd142m"] = figure
        found[f"facebook/dinov2{infix}-{_SIZES[letter]}"] = figure
    return found


def _dinov3(text: str) -> dict[str, str]:
    """The table of ViTs pre-trained on the web, with ImageNet's ReaL labels."""
    table = text.split("pretrained (or distilled) on web")[1].split("</table>")[0]
    rows = re.findall(r"<td>DINOv3 (\S+)</td>.*?<td[^>]*>([\d.]+)</td>", table, re.DOTALL)
    found = {}
    for model, figure in rows:
        theirs, timms = _DINOV3[model]
        found[f"facebook/dinov3-{theirs}-pretrain-lvd1689m"] = f"ReaL {figure}"
        found[f"timm/{timms}_dinov3.lvd1689m"] = f"ReaL {figure}"
    return found


def _aim(text: str) -> dict[str, str]:
    """The galleries of AIMv2, whose trunk is frozen."""
    rows = re.findall(
        r"<td>aimv2-(\w+)-patch14-(\w+)</td>\s*<td>[\d.]+B</td>\s*<td>([\d.]+)</td>", text
    )
    return {
        f"timm/aimv2_{size.lower()}_patch14_{side}.apple_pt": f"frozen {figure}"
        for size, side, figure in rows
    }


def _vit(text: str) -> dict[str, str]:
    """The AugReg table."""
    rows = re.findall(r"`(gs://\S+imagenet2012\S+npz)`.*?([\d.]+)%", text)
    return {name: f"fine-tuned {figure}" for name, figure in rows}


READERS = dict(timm=_timm, dinov2=_dinov2, dinov3=_dinov3, aim=_aim, vit=_vit)
