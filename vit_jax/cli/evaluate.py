"""Accuracy of a checkpoint on a data set, each example counted once.

vit_jax evaluate --checkpoint=workdirs/fashion_mnist
vit_jax evaluate --checkpoint=B_16.npz --source=tfds:imagenet2012 --split=validation
"""

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("--checkpoint", required=True, help="workdir, checkpoint or weight file")
    parser.add_argument("--source", help="data source; default: the run's own evaluation")
    parser.add_argument("--split", help="split in tfds syntax")
    parser.add_argument("--pp", help="preprocessing; default: the checkpoint's")
    parser.add_argument("--data-dir", default="", help="where tfds looks")
    parser.add_argument("--batch-size", type=int, default=128, help="over all devices")
    parser.add_argument("--use-ema", action="store_true", help="averaged parameters")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Evaluates; returns the exit status."""
    from vit_jax.evaluate.checkpoint import evaluate_checkpoint

    result = evaluate_checkpoint(
        args.checkpoint,
        source=args.source,
        split=args.split,
        pp=args.pp,
        data_dir=args.data_dir,
        batch_size=args.batch_size,
        use_ema=args.use_ema,
    )
    if args.json:
        print(json.dumps(result))
    else:
        print(
            f"top-1 {result['top1']:.2%}, top-5 {result['top5']:.2%}, loss {result['loss']:.4f} "
            f"on {result['examples']:,} examples of {result['source']} ({result['split']})"
        )
    return 0
