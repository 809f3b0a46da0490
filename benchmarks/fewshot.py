"""How long few-shot regression takes at ImageNet's size, features given.

  python benchmarks/fewshot.py

1,000 classes, 10 shots, 1,024 features: 6.2 s of processor time to fit and 0.8 s to test 5,000
images, over the two cores of an AMD EPYC at 2.0 GHz (Zen 1) that were busy with other work;
Python 3.11, NumPy 2.4.6, 2026-11-25.
"""

import argparse
import json
import time

import numpy as np

from vit_jax.evaluate.frozen.fewshot import L2, L2_SWEEP, RidgeRegression


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--shots", type=int, default=10)
    parser.add_argument("--features", type=int, default=1024)
    parser.add_argument("--test", type=int, default=5000, help="test examples")
    parser.add_argument("--sweep", action="store_true", help="30 penalties instead of one")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(args.classes, args.features)).astype(np.float32)
    labels = np.repeat(np.arange(args.classes), args.shots)
    truth = rng.integers(0, args.classes, args.test)
    noise = 6.0

    def around(classes: np.ndarray) -> np.ndarray:
        shape = (len(classes), args.features)
        return centres[classes] + noise * rng.normal(size=shape).astype(np.float32)

    features, queries = around(labels), around(truth)
    times = [clocks()]
    model = RidgeRegression(features, labels, args.classes)
    times.append(clocks())
    accuracies = model.accuracies(queries, truth, L2_SWEEP if args.sweep else L2)
    times.append(clocks())
    (fit, fit_cpu), (test, test_cpu) = np.diff(times, axis=0).round(2).tolist()
    timing = dict(fit_seconds=fit, fit_cpu_seconds=fit_cpu, test_seconds=test)
    timing |= dict(test_cpu_seconds=test_cpu, top1=float(accuracies.max()))
    print(json.dumps(vars(args) | timing))


def clocks() -> tuple[float, float]:
    """Time on the wall, and that of all processors spent here."""
    return time.perf_counter(), time.process_time()


if __name__ == "__main__":
    main()
