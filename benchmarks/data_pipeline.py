"""Speed and memory of the data pipeline beside a bare tf.data loop.

    python benchmarks/data_pipeline.py [--threads 2] [--rounds 5] [--steps 20000]

Three measurements on this machine's cores:
1. JPEGs of ImageNet's size (500x375, cut from the photographs that come with scikit-learn
   and scikit-image): the training pipeline (shuffled order, inception crop, uint8 batches and
   which of them the accelerator flips) beside a tf.data loop that only decodes, crops and
   resizes the same files; also with flips on the host, as where there is no accelerator.
2. Small images in memory (60,000 of 28x28, random crop with padding and flip).
3. Resident memory while either runs for many steps.

The loops take turns, and each turn is timed in wall-clock and in processor time: on a
machine with other work the latter is the fair comparison. The ratio is the median of the
rounds' own ratios.
"""

import argparse
import functools
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np

from vit_jax import data
from vit_jax.data.sources.source import ArraySource

BATCH = 128
JPEG = "decode|inception_crop(224)|flip_lr|value_range(-1, 1)"
BARE, OURS, FLIPS = "bare tf.data loop", "training pipeline", "flips on the host too"
Rate = tuple[float, float]  # images per second of wall-clock and of processor time
AUGMENTED = JPEG.replace("flip_lr", "flip_lr|randaug(2, 10)")
SMALL = "random_crop(28, padding=4)|flip_lr|value_range(-1, 1)"


def write_jpegs(folder: str, count: int) -> list[str]:
    """JPEGs of 500x375, random parts of a few photographs, in three class folders.

    With a camera's noise, so that the files are as large as ImageNet's, 110 kB.
    """
    import skimage.data
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photos = [
        *load_sample_images().images,
        skimage.data.astronaut(),
        skimage.data.coffee(),
        skimage.data.chelsea(),
    ]
    rng = np.random.default_rng(0)
    paths = []
    for i in range(count):
        photo = photos[i % len(photos)]
        h, w = photo.shape[:2]
        height = int(min(h, w * 0.75) * rng.uniform(0.6, 1))
        width = height * 4 // 3
        y, x = rng.integers(0, h - height + 1), rng.integers(0, w - width + 1)
        part = Image.fromarray(photo[y : y + height, x : x + width]).resize(
            (500, 375), Image.BICUBIC
        )
        noisy = np.clip(np.asarray(part) + rng.normal(0, 7, (375, 500, 1)), 0, 255)
        path = os.path.join(folder, str(i % 3), f"{i:05}.jpg")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Image.fromarray(noisy.astype(np.uint8)).save(path, quality=95)
        paths.append(path)
    return paths


def bare_loop(paths: list[str], threads: int) -> Iterator[np.ndarray]:
    """tf.data that decodes, crops and resizes, and nothing else."""
    from vit_jax.data._tf import tf

    def load(path):
        encoded = tf.io.read_file(path)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(encoded),
            tf.zeros([1, 0, 4]),
            area_range=(0.05, 1),
            aspect_ratio_range=(0.75, 1.33),
            min_object_covered=0.0,
            use_image_if_no_bounding_boxes=True,
        )
        box = tf.concat([begin[:2], size[:2]], 0)
        image = tf.io.decode_and_crop_jpeg(encoded, box, channels=3)
        return tf.cast(tf.image.resize(image, (224, 224)), tf.uint8)

    files = tf.data.Dataset.from_tensor_slices(paths).repeat()
    images = files.map(load, num_parallel_calls=threads).batch(BATCH, drop_remainder=True)
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1
    return images.prefetch(2).with_options(options).as_numpy_iterator()


def turn(start: Callable[[], Iterator], steps: int) -> Rate:
    """Images per second of wall-clock and of processor time, of a loop started anew."""
    batches = start()
    for _ in range(3):  # fills the buffers
        next(batches)
    wall, processor = time.perf_counter(), time.process_time()
    for _ in itertools.islice(batches, steps):
        pass
    images = steps * BATCH
    return images / (time.perf_counter() - wall), images / (time.process_time() - processor)


def side_by_side(
    loops: dict[str, Callable[[], Iterator]], rounds: int, steps: int
) -> dict[str, list[Rate]]:
    """The rates of each round, in which the loops take turns."""
    found = {name: [] for name in loops}
    for _ in range(rounds):
        for name, start in loops.items():
            found[name].append(turn(start, steps))
            note("{}: {:,.0f} images/s, {:,.0f} of processor time".format(name, *found[name][-1]))
    return found


def note(line: str) -> None:
    """Progress, apart from the result."""
    print(line, file=sys.stderr, flush=True)


def small_images() -> ArraySource:
    rng = np.random.default_rng(0)
    return ArraySource(
        name="random",
        split="train",
        size=60_000,
        label_names=[str(i) for i in range(10)],
        image_size=(28, 28),
        images=rng.integers(0, 256, (60_000, 28, 28, 1), np.uint8),
        targets=rng.integers(0, 10, 60_000),
    )


def resident_mib() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def memory(start: Callable[[], Iterator], steps: int) -> dict[int, float]:
    """Resident memory in MiB after some of the steps."""
    marks = [steps // 20, steps // 4, steps // 2, steps * 3 // 4, steps]
    batches, found = start(), {}
    for step in range(1, steps + 1):
        next(batches)
        if step in marks:
            found[step] = round(resident_mib(), 1)
            note(f"{found[step]:,.0f} MiB after {step:,} steps")
    batches.close()
    return found


def measure(threads: int, rounds: int, steps: int) -> dict:
    """All three measurements."""
    small = small_images()
    with tempfile.TemporaryDirectory() as folder:
        paths = write_jpegs(folder, 300)
        photos = data.open_source(f"folder:{folder}", "train")

        def training(source, pp, batch_size=BATCH, leave_flip=False):
            return functools.partial(
                data.train_batches, source, data.parse(pp),
                batch_size=batch_size, seed=0, threads=threads, leave_flip=leave_flip,
            )  # fmt: skip

        bare = functools.partial(bare_loop, paths, threads)
        loops = {
            BARE: bare,
            OURS: training(photos, JPEG, leave_flip=True),
            FLIPS: training(photos, JPEG),
        }
        rates = side_by_side(loops, rounds, 20)
        augmented = {"with RandAugment(2, 10)": training(photos, AUGMENTED)}
        rates |= side_by_side(augmented, 1, 20)
        rates |= side_by_side({"28x28 in memory": training(small, SMALL)}, 3, 1000)
        return dict(
            threads=threads,
            kilobytes_per_jpeg=round(sum(map(os.path.getsize, paths)) / len(paths) / 1000, 1),
            images_per_second=rates,
            resident_mib={
                "28x28 in memory, batches of 32": memory(training(small, SMALL, 32), steps),
                "JPEGs, batches of 1": memory(training(photos, JPEG, 1), steps),
            },
        )


def report(found: dict) -> str:
    """The measurements as Markdown."""
    rates = found["images_per_second"]
    rows = {name: [f"{rate:,.0f}" for rate in medians(of)] for name, of in rates.items()}
    for name in (OURS, FLIPS):
        ratios = [[a / b for a, b in zip(*pair)] for pair in zip(rates[name], rates[BARE])]
        rows[f"{name} / bare loop"] = [f"{ratio:.3f}" for ratio in medians(ratios)]
    lines = [
        f"{found['threads']} threads, batches of {BATCH}, "
        f"JPEGs of {found['kilobytes_per_jpeg']} kB",
        "",
        "| | images/s | images/s of processor time |",
        "|---|---|---|",
        *(f"| {name} | {wall} | {processor} |" for name, (wall, processor) in rows.items()),
    ]
    for name, marks in found["resident_mib"].items():
        values = ", ".join(f"{step:,}: {mib:,.0f}" for step, mib in marks.items())
        lines += ["", f"Resident memory in MiB after so many steps ({name}): {values}"]
    return "\n".join(lines)


def medians(rates: list[Rate]) -> list[float]:
    """Of wall-clock and of processor time."""
    return [statistics.median(column) for column in zip(*rates)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=int, default=cores, help="default: cores")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each loop")
    parser.add_argument("--steps", type=int, default=20_000, help="of the memory measurement")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    args = parser.parse_args()
    found = measure(args.threads, args.rounds, args.steps)
    print(json.dumps(found) if args.json else report(found))


if __name__ == "__main__":
    main()
