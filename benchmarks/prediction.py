"""Speed of prediction from arrays and from image files beside the bare compiled forward pass.

    python benchmarks/prediction.py [--model ViT-S/16] [--batch 16] [--batches 4] [--rounds 5]

`Predictor`, which `vit_jax predict` uses, takes what `vit_jax.load` returns. It decodes, resizes
and crops JPEGs of 500x375 while the device computes, and makes up the last batch to a shape
that is compiled. On a CPU decoding and the step share the cores: files are compared with "step,
then decoding", the two one after the other. Arrays are also predicted in the other dtypes of
`vit_jax predict --dtype`. All take turns.
"""

import argparse
import functools
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vit_jax import create_model, data
from vit_jax.cli.startup import restart_with_huge_pages
from vit_jax.evaluate.predict import Predictor
from vit_jax.models import layers
from vit_jax.models.forms.quantized import int8
from vit_jax.parallel.distributed import BY_CORES, make_cpu_devices
from vit_jax.speed.benchmark import create_case, default_dtype, run_config, step_ends
from vit_jax.weights import Weights

PP = "decode|resize_small(256)|central_crop(224)|value_range(-1, 1)"


def write_jpegs(folder: Path, count: int) -> list[str]:
    """Parts of a photograph, 500x375."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photo = load_sample_images().images[0]
    rng = np.random.default_rng(0)
    paths = []
    for i in range(count):
        y, x = rng.integers(0, photo.shape[0] - 375), rng.integers(0, photo.shape[1] - 500)
        paths.append(str(folder / f"{i}.jpg"))
        Image.fromarray(photo[y : y + 375, x : x + 500]).save(paths[-1], quality=94)
    return paths


def measure(model: str, batch: int, batches: int, rounds: int) -> dict[str, Any]:
    """Images per second of each, medians over rounds."""
    options = dict(num_classes=1000, image_size=224, dtype=default_dtype())
    info = Weights(name=model, options=options, pp=PP)
    made = create_model(model, **options)
    predictor = Predictor(made, info, batch_size=batch)
    others = {
        dtype: create_model(model, **(options | dict(dtype=dtype)))
        for dtype in layers.DTYPES
        if dtype != options["dtype"]
    }
    others["int8"] = int8(made)
    case = create_case(run_config(model, batch_size=batch), "infer")
    count, pp = batch * batches, data.parse(PP)
    images = np.random.default_rng(0).integers(0, 256, (count, 224, 224, 3), np.uint8)

    def steps() -> None:
        for _ in step_ends(case.outputs(batches)):
            pass

    with tempfile.TemporaryDirectory() as folder:
        paths = write_jpegs(Path(folder), count)
        turns: dict[str, Any] = {
            "compiled step": steps,
            "arrays": lambda: predictor(images),
            "decoding": lambda: list(data.image_batches(paths, pp, batch, data.MAX_PIXELS)),
            "JPEG files": lambda: predictor.files(paths),
        }
        for dtype, other in others.items():
            own = Predictor(other, info, batch_size=batch)
            turns[f"arrays, {dtype}"] = functools.partial(own, images)
        speeds: dict[str, list[float]] = {name: [] for name in turns}
        for turn in turns.values():
            turn()
        for _ in range(rounds):
            for name, turn in turns.items():
                start = time.perf_counter()
                turn()
                speeds[name].append(count / (time.perf_counter() - start))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    both = 1 / medians["compiled step"] + 1 / medians["decoding"]
    medians["step, then decoding"] = 1 / both
    return dict(
        device=jax.devices()[0].device_kind,
        jax=jax.__version__,
        model=model,
        batch=batch,
        images_per_second=medians,
        share={name: value / medians["compiled step"] for name, value in medians.items()},
        files_share_of_both=medians["JPEG files"] * both,
    )


def report(found: dict[str, Any]) -> str:
    """The measurement as Markdown."""
    share = found["share"]
    rows = [
        f"| {name} | {value:,.1f} | {share[name]:.2f} |"
        for name, value in found["images_per_second"].items()
    ]
    title = f"{found['model']}, batches of {found['batch']}, {found['device']}"
    both = f"JPEG files: {found['files_share_of_both']:.2f} of the step, then decoding"
    return "\n".join(
        [title, "", "| from | images/s | of the step |", "|---|---|---|", *rows, "", both]
    )


def main() -> None:
    restart_with_huge_pages()
    make_cpu_devices(BY_CORES)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ViT-S/16", help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=16, help="default: %(default)s")
    parser.add_argument("--batches", type=int, default=4, help="in a turn (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    args = parser.parse_args()
    found = measure(args.model, args.batch, args.batches, args.rounds)
    print(json.dumps(found) if args.json else report(found))


if __name__ == "__main__":
    main()
