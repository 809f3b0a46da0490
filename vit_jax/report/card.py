"""Model cards: what weights are, in Markdown, with the metadata that the Hugging Face hub reads.

The metadata are YAML between lines of three hyphens: licence, tags, library, what the model was
trained from and on, and its results as a model-index (hub-docs: model-cards.md).
"""

import dataclasses
import json
import logging
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vit_jax import __version__, options
from vit_jax.checkpoint.load import read_description
from vit_jax.checkpoint.stored import read_meta
from vit_jax.data.sources.opening import SOURCES
from vit_jax.errors import InputError
from vit_jax.evaluate.stored import predict_command
from vit_jax.files import expand, write_atomic
from vit_jax.text import printable, reason
from vit_jax.weights.files.paths import is_shipped
from vit_jax.weights.record import Weights

log = logging.getLogger(__name__)

NAME = "README.md"
MARK = "<!-- written by vit_jax -->"
UNKNOWN = "unknown"  # the hub's word for a licence that nobody has named
OWN, TRANSFORMERS, TIMM = "vit_jax", "transformers", "timm"
LABELS = 30  # class names that are listed
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Metric of an evaluation -> type on the hub, name.
METRICS = {
    "top1": ("accuracy", "Top-1 accuracy"),
    "top5": ("accuracy", "Top-5 accuracy"),
    "mean_average_precision": ("mean_average_precision", "Mean average precision"),
    "loss": ("loss", "Loss"),
}
# Options that tell how a model was trained.
TOLD = re.compile(
    r"(task|batch_size|total\.\w+|init_from|loss\.\w+|mixup\.\w+|lora\.rank|data\.pp|distill\.\w+"
    r"|optimizer\.(name|learning_rate|weight_decay|schedule|clip_norm|ema_decay|warmup\.\w+))"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """What a card is about.

    Attributes:
      title: name of the model on the card.
      weights: record of the weights, with or without arrays.
      metrics: metrics by name, such as "eval/test/top1".
      step: number of training steps; None if no run is known.
      params: number of parameters; None if unknown.
      library: OWN, TRANSFORMERS or TIMM: the program that reads the files beside the card.
      where: path or hub id by which that program loads it.
      run: config of the run, if that is a workdir.
      license: licence in the hub's words.
    """

    title: str
    weights: Weights
    metrics: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    step: int | None = None
    params: int | None = None
    library: str = OWN
    where: str = ""
    run: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    license: str = UNKNOWN


def card(subject: Subject) -> str:
    """The model card."""
    import yaml

    front = yaml.safe_dump(metadata(subject), sort_keys=False, allow_unicode=True, width=100)
    return f"---\n{front}---\n\n{MARK}\n\n" + "\n".join(_body(subject))


def metadata(subject: Subject) -> dict[str, Any]:
    """The metadata of a card, as the hub spells their keys."""
    weights = subject.weights
    classes = weights.config.num_classes
    pipeline = "image-classification" if classes else "image-feature-extraction"
    found: dict[str, Any] = dict(
        license=subject.license,
        library_name=subject.library,
        pipeline_tag=pipeline,
        tags=list(dict.fromkeys([pipeline, "vision", _kind(weights), subject.library, OWN])),
    )
    if base := base_model(weights):
        found["base_model"] = base
    source, split = _evaluated_on(weights.run_config)
    if (kind := dataset(weights.run_config.get("data", {}).get("source"))) and kind[2]:
        found["datasets"] = [kind[0]]
    results = _results(subject)
    if results and (place := dataset(source)):
        found["metrics"] = list(dict.fromkeys(result["type"] for result in results))
        found["model-index"] = [
            {
                "name": subject.title,
                "results": [
                    dict(
                        task=dict(type="image-classification", name="Image Classification"),
                        dataset=dict(name=place[1], type=place[0], split=split),
                        metrics=results,
                    )
                ],
            }
        ]
    return found


def _kind(weights: Weights) -> str:
    return "resnet" if weights.name.startswith("BiT") else "vision-transformer"


def base_model(weights: Weights) -> str:
    """The hub id of the weights that a run started from, or that were converted; "" if none."""
    path = _began_with(weights).partition(":")[0]
    known = HUB_ID.fullmatch(path) and not expand(path).parent.exists()
    return path if known and not is_shipped(path) else ""


def _began_with(weights: Weights) -> str:
    start = weights.run_config.get("init_from") if weights.run_config else weights.source
    return str(start or "")


def dataset(source: str | None) -> tuple[str, str, bool] | None:
    """Type, name, and whether the hub has it, of a data source; None if there is none.

    Folders of the machine, which are nobody's business, are left out: only last parts are named.
    """
    if not source:
        return None
    kind, colon, rest = source.partition(":")
    if not colon and kind not in SOURCES:  # a folder or table without its kind
        kind, rest = os.path.splitext(source)[1].lstrip(".") or "folder", source
    place = re.split(r"[*+]", rest)[0].rstrip("/")
    if kind == "hf":
        return place, place, True
    name = place.rpartition("/")[2] or kind
    return "imagefolder" if kind == "folder" else name, name, False


def _evaluated_on(config: Mapping[str, Any]) -> tuple[str | None, str]:
    """Source and split of the first evaluation of a run."""
    evals = {
        name: entry
        for name, entry in sorted(config.get("evals", {}).items())
        if entry.get("type", "classification") == "classification"
    }
    entry: Mapping[str, Any] = next(iter(evals.values()), {})
    return entry.get("source") or config.get("data", {}).get("source"), entry.get("split", "test")


def _results(subject: Subject) -> list[dict[str, Any]]:
    """The metrics of the first evaluation that has top-1, in the words of a model-index.

    Top-5 of at most five classes, which is always 100%, is left out.
    """
    metrics = subject.metrics
    few = subject.weights.config.num_classes <= 5
    prefix = next((name[: -len("top1")] for name in metrics if name.endswith("/top1")), None)
    if prefix is None:
        return []
    return [
        dict(type=kind, name=name, value=round(value, 6))
        for key, (kind, name) in METRICS.items()
        if not (few and key == "top5")
        and (value := metrics.get(prefix + key)) is not None
        and math.isfinite(value)
    ]


def _body(subject: Subject) -> list[str]:
    weights = subject.weights
    config = weights.config
    size = "x".join(str(side) for side in config.image_size)
    lines = [f"# {_markdown(subject.title)}", ""]
    told = f"{weights.name}, an image classifier of {config.num_classes:,} classes"
    if not config.num_classes:
        told = f"{weights.name}, which gives features of images"
    data = dataset(weights.run_config.get("data", {}).get("source"))
    trained = f", trained on {_code(data[1])}" if data else ""
    lines += [f"{told}{trained} with vit_jax {__version__}.", ""]
    began = "It was fine-tuned from" if weights.run_config else "The weights are those of"
    if base := base_model(weights):
        lines += [f"{began} [{base}](https://huggingface.co/{base}).", ""]
    elif is_shipped(start := _began_with(weights)):
        lines += [f"{began} {_code(start)}, which comes with vit_jax.", ""]
    lines += ["## Model", "", "| | |", "|---|---|"]
    facts = dict(Images=f"{size} pixels, RGB", Preprocessing=_code(weights.pp))
    if subject.params:
        facts["Parameters"] = f"{subject.params:,}"
    facts["Class probabilities"] = (
        "sigmoid of each logit: an image may have several classes"
        if weights.multi_label
        else "softmax of the logits"
    )
    lines += [f"| {name} | {value} |" for name, value in facts.items()]
    lines += _labels(weights.labels)
    lines += _evaluation(subject)
    lines += ["", "## Use", "", *_use(subject)]
    lines += _training(weights.run_config, subject.step)
    lines += [
        "",
        "## Limits",
        "",
        "The results hold for images like those it was evaluated on. Nothing here says how it "
        "treats other images, or whether its errors fall on some people or places more than on "
        "others.",
        "",
    ]
    return lines


def _labels(labels: list[str]) -> list[str]:
    if not labels:
        return []
    shown = ", ".join(_code(name) for name in labels[:LABELS])
    more = f" and {len(labels) - LABELS:,} more" if len(labels) > LABELS else ""
    return ["", f"Classes, by number: {shown}{more}."]


def _evaluation(subject: Subject) -> list[str]:
    results = _results(subject)
    source, split = _evaluated_on(subject.weights.run_config)
    place = dataset(source)
    if not results or not place:
        return []
    lines = ["", "## Evaluation", "", f"On {_code(place[1])}, split {_code(split)}:", ""]
    lines += ["| metric | value |", "|---|---|"]
    for result in results:
        value = f"{result['value']:.4g}" if result["type"] == "loss" else f"{result['value']:.2%}"
        lines.append(f"| {result['name']} | {value} |")
    return lines


def _use(subject: Subject) -> list[str]:
    where = json.dumps(subject.where)
    if subject.library == TRANSFORMERS:
        code = [
            "from transformers import pipeline",
            "",
            f'classify = pipeline("image-classification", {where})',
            'print(classify("image.jpg"))',
        ]
        if not subject.weights.config.num_classes:
            code = [
                "from transformers import AutoImageProcessor, AutoModel",
                "",
                f"processor = AutoImageProcessor.from_pretrained({where})",
                f"model = AutoModel.from_pretrained({where})",
            ]
    elif subject.library == TIMM:
        kind = "hf-hub" if HUB_ID.fullmatch(subject.where) else "local-dir"
        code = [
            "import timm",
            "",
            f"model = timm.create_model({json.dumps(f'{kind}:{subject.where}')}, pretrained=True)",
            "config = timm.data.resolve_model_data_config(model)",
            "transform = timm.data.create_transform(**config)",
        ]
    else:
        line = predict_command(subject.where, run=subject.run)
        return ["```bash", printable(line), "```"]
    return ["```python", *code, "```"]


def _training(config: Mapping[str, Any], step: int | None) -> list[str]:
    """The options of the run that tell how the model was trained."""
    told = {
        name: value
        for name, value in sorted(options.flatten(config))
        if TOLD.fullmatch(name) and value not in (None, "", 0, 0.0, [], ())
    }
    if told.get("task") != "distill":
        told = {name: value for name, value in told.items() if not name.startswith("distill.")}
    if "init_from" in told and not HUB_ID.fullmatch(str(told["init_from"])):
        told["init_from"] = Path(str(told["init_from"])).name
    if not told:
        return []
    lines = ["", "## Training", ""]
    lines += [f"{step:,} steps.", ""] if step else []
    lines += ["| option | value |", "|---|---|"]
    return lines + [f"| {name} | {_code(json.dumps(value))} |" for name, value in told.items()]


def _code(text: str) -> str:
    """Text of others as code in a line of Markdown, also in a table."""
    text = printable(text).replace("|", "\\|")
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{pad}{text}{pad}{ticks}"


def _markdown(text: str) -> str:
    """Text of others as plain text of Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", printable(text))


def run_facts(weights: Weights) -> tuple[dict[str, float | None], int | None]:
    """Metrics and step of the checkpoint that weights come from; of published ones none.

    Args:
      weights: record of weights.
    """
    checkpoint = Path(weights.source)
    if weights.family != "vit_jax" or not checkpoint.name.isdecimal():
        return {}, None
    return dict(read_meta(checkpoint).get("metrics", {})), int(checkpoint.name)


def write_card(workdir: Path, params: int) -> None:
    """Writes a run's card into its workdir, about the checkpoint that others read.

    A README.md of somebody else stays. What fails is logged: a run does not end by it.

    Args:
      workdir: workdir of the run.
      params: number of parameters of its model.
    """
    file = workdir / NAME
    try:
        if file.exists() and MARK not in file.read_text(errors="replace"):
            log.info("%s is not by vit_jax; there is no model card", file)
            return
        weights = read_description(workdir)
        metrics, step = run_facts(weights)
        subject = Subject(
            title=workdir.name,
            weights=weights,
            metrics=metrics,
            step=step,
            params=params,
            where=workdir.name,
            run=weights.run_config,
        )
        write_atomic(file, card(subject))
    except (OSError, InputError) as error:
        log.error("no model card: %s: %s", file, reason(error))
