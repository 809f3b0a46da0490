"""Training and inference speed of vit_jax and of PyTorch's ViTs, side by side in one sitting.

    python benchmarks/side_by_side.py [--models ViT-S/16] [--modes train] [--json FILE]

On CPUs Ti/16, S/16 and B/16 in float32 at batch 16; on a GPU S/16, B/16 and L/16 in bfloat16,
each contestant at its own best batch. The peers are timm's models and, where it is installed,
transformers' ViTForImageClassification, each eager and compiled. Where timm cannot be imported, the
same network is written out in plain PyTorch as timm does it (one projection for query, key and
value, F.scaled_dot_product_attention, nn.GELU), which is not timm. PyTorch has what it likes: fused
AdamW, images with channels last, torch.compile, all cores. So has ours: on CPUs, by default, a
device for each core, and blocks that are not a loop in training, as in any run.

All do the same work: uint8 pixels on the device, normalised there; forward and backward pass,
gradients clipped by their norm, AdamW; inference gives logits. Ours and one peer at a time, each
in a process of its own, wait for each other and take turns, with a step that does not count at
the start of each (a virtual machine may have lost idle memory); figures are medians over turns. On
CPUs images per second of processor time, over all cores, are given too: on a machine with other
work they are the fair comparison.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

from vit_jax.cli.startup import restart_with_huge_pages

SIZE, CLASSES = 224, 1000
# Width, depth, heads.
SHAPES = {
    "ViT-Ti/16": (192, 12, 3),
    "ViT-S/16": (384, 12, 6),
    "ViT-B/16": (768, 12, 12),
    "ViT-L/16": (1024, 24, 16),
}
ON_CPU = ("ViT-Ti/16", "ViT-S/16", "ViT-B/16")
ON_GPU = ("ViT-S/16", "ViT-B/16", "ViT-L/16")
FIRST_BATCH, CPU_BATCH = 32, 16
WARM_UP = 2  # steps before the first turn
OURS = "SIDE_BY_SIDE_OURS"  # options of our contestants, for their processes


class Ours:
    """The compiled step of vit_jax."""

    def __init__(self, model: str, mode: str, batch: int, dtype: str, compiled: bool):
        from vit_jax.parallel.distributed import BY_CORES, make_cpu_devices
        from vit_jax.speed import benchmark

        options = json.loads(os.environ.get(OURS, "{}"))
        make_cpu_devices(options.get("cpu_devices", BY_CORES))
        unroll = options.get("unroll", 0)
        config = benchmark.run_config(
            model, batch_size=batch, image_size=SIZE, dtype=dtype, unroll=unroll
        )
        self.case = benchmark.create_case(config, mode)

    def run(self, steps: int) -> None:
        """Does so many steps and waits for them."""
        from vit_jax.speed.benchmark import step_ends

        for _ in step_ends(self.case.outputs(steps)):
            pass


class Torch:
    """A model of PyTorch."""

    def __init__(self, model: str, mode: str, batch: int, dtype: str, compiled: bool):
        import torch

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        torch.set_float32_matmul_precision("high")  # of GPUs
        self.torch = torch
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.dtype = getattr(torch, dtype)
        self.train = mode == "train"
        network = self.create(model).to(self.device, memory_format=torch.channels_last)
        network = network.train() if self.train else network.eval().to(self.dtype)
        self.network = torch.compile(network) if compiled else network
        self.optimizer = torch.optim.AdamW(
            network.parameters(), lr=1e-3, weight_decay=0.1, fused=True
        )
        images = torch.randint(0, 256, (batch, 3, SIZE, SIZE), dtype=torch.uint8)
        self.images = images.to(self.device, memory_format=torch.channels_last)
        self.labels = torch.randint(0, CLASSES, (batch,)).to(self.device)

    def create(self, model: str) -> Any:
        """The network, which gives logits."""
        raise NotImplementedError

    def run(self, steps: int) -> None:
        """Does so many steps and waits for them."""
        for _ in range(steps):
            self._train() if self.train else self._infer()
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def _pixels(self) -> Any:
        return self.images.float().div_(255).sub_(0.5).div_(0.5)

    def _infer(self) -> None:
        with self.torch.inference_mode():
            self.network(self._pixels().to(self.dtype))

    def _train(self) -> None:
        torch = self.torch
        low = self.dtype != torch.float32
        with torch.autocast(self.device, self.dtype, enabled=low):
            logits = self.network(self._pixels())
            loss = torch.nn.functional.cross_entropy(logits, self.labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class Timm(Torch):
    """timm's model."""

    def create(self, model: str) -> Any:
        import timm

        size = {"Ti": "tiny", "S": "small", "B": "base", "L": "large"}[model[4:-3]]
        return timm.create_model(f"vit_{size}_patch16_224")


class PlainTorch(Torch):
    """The network of timm written out: what stands in for timm where it is not."""

    def create(self, model: str) -> Any:
        from torch import nn
        from torch.nn import functional

        torch, (width, depth, heads) = self.torch, SHAPES[model]

        class Attention(nn.Module):
            def __init__(self):
                super().__init__()
                self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

            def forward(self, x):
                b, n, _ = x.shape
                q, k, v = self.qkv(x).reshape(b, n, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
                y = functional.scaled_dot_product_attention(q, k, v)
                return self.proj(y.transpose(1, 2).reshape(b, n, width))

        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
                self.attention = Attention()
                self.mlp = nn.Sequential(
                    nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
                )

            def forward(self, x):
                x = x + self.attention(self.norm1(x))
                return x + self.mlp(self.norm2(x))

        class ViT(nn.Module):
            def __init__(self):
                super().__init__()
                self.patches = nn.Conv2d(3, width, 16, 16)
                self.cls = nn.Parameter(torch.zeros(1, 1, width))
                self.posemb = nn.Parameter(torch.randn(1, (SIZE // 16) ** 2 + 1, width) * 0.02)
                self.blocks = nn.Sequential(*(Block() for _ in range(depth)))
                self.norm, self.head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, CLASSES)

            def forward(self, images):
                x = self.patches(images).flatten(2).transpose(1, 2)
                x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.posemb
                return self.head(self.norm(self.blocks(x))[:, 0])

        return ViT()


class Transformers(Torch):
    """transformers' ViTForImageClassification."""

    def create(self, model: str) -> Any:
        import transformers

        width, depth, heads = SHAPES[model]
        config = transformers.ViTConfig(
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            num_labels=CLASSES,
        )
        network = transformers.ViTForImageClassification(config)

        class Logits(self.torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.network = network

            def forward(self, images):
                return self.network(images).logits

        return Logits()


KINDS = dict(ours=Ours, timm=Timm, plain=PlainTorch, transformers=Transformers)


def peers() -> dict[str, tuple[str, bool]]:
    """Name -> (kind, compiled) of whoever can take part."""
    if importlib.util.find_spec("timm"):
        found = {"timm": ("timm", False), "timm, compiled": ("timm", True)}
    else:
        print("timm is not installed: plain PyTorch stands in for it", file=sys.stderr)
        found = {"plain PyTorch": ("plain", False), "plain PyTorch, compiled": ("plain", True)}
    if importlib.util.find_spec("transformers"):
        found |= {
            "transformers": ("transformers", False),
            "transformers, compiled": ("transformers", True),
        }
    return found


class Contestant:
    """A process that waits for its turns."""

    def __init__(self, kind: str, compiled: bool, **case: Any):
        command = [sys.executable, __file__, "--contestant"]
        # Two processes share a GPU.
        environment = dict(os.environ, XLA_PYTHON_CLIENT_MEM_FRACTION="0.45")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.batch = self._ask(dict(kind=kind, compiled=compiled, **case))["batch"]

    def turn(self, steps: int) -> tuple[float, float]:
        """Images per second, and per second of processor time."""
        answer = self._ask(dict(steps=steps))
        images = steps * self.batch
        return images / answer["seconds"], images / answer["processor_seconds"]

    def close(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"a contestant ended: {question}")
        return json.loads(answer)


def be_contestant() -> None:
    """Answers questions from standard input until it ends."""
    answers, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr
    os.dup2(2, 1)  # whatever libraries print
    case = json.loads(input())
    kind, batch = KINDS[case.pop("kind")], case.pop("batch")
    if not batch:
        batch = best_batch(kind, case)
    contestant = kind(batch=batch, **case)
    contestant.run(WARM_UP)
    print(json.dumps(dict(batch=batch)), file=answers, flush=True)
    for line in sys.stdin:
        steps = json.loads(line)["steps"]
        contestant.run(1)
        wall, processor = time.perf_counter(), time.process_time()
        contestant.run(steps)
        answer = dict(
            seconds=time.perf_counter() - wall, processor_seconds=time.process_time() - processor
        )
        print(json.dumps(answer), file=answers, flush=True)


def best_batch(kind: type, case: dict[str, Any]) -> int:
    """Doubles the batch until it is slower or does not fit."""
    best, speed, batch = FIRST_BATCH, 0.0, FIRST_BATCH
    while True:
        try:
            contestant = kind(batch=batch, **case)
            contestant.run(WARM_UP)
            start = time.perf_counter()
            contestant.run(10)
        except Exception as error:  # each framework has its own; what is no lack of memory shows
            if batch == FIRST_BATCH or "memory" not in str(error).lower():
                raise
            return best
        this = 10 * batch / (time.perf_counter() - start)
        if this <= speed:
            return best
        best, speed, batch = batch, this, 2 * batch
        del contestant


def compare(model: str, mode: str, peer: str, rounds: int, steps: int, **case: Any) -> dict:
    """Ours and one peer, in turns."""
    kind, compiled = peers()[peer]
    case = dict(case, model=model, mode=mode)
    ours = Contestant("ours", True, **case)
    theirs = Contestant(kind, compiled, **case)
    turns: dict[str, list[tuple[float, float]]] = dict(ours=[], theirs=[])
    for _ in range(rounds):
        turns["ours"].append(ours.turn(steps))
        turns["theirs"].append(theirs.turn(steps))
    ours.close()
    theirs.close()
    (mine, mine_cpu), (other, other_cpu) = (
        [statistics.median(column) for column in zip(*values)] for values in turns.values()
    )
    ratios = [a[0] / b[0] for a, b in zip(*turns.values())]
    return dict(
        model=model,
        mode=mode,
        peer=peer,
        ours=mine,
        theirs=other,
        ratio=mine / other,
        ratio_range=[min(ratios), max(ratios)],
        processor_ratio=mine_cpu / other_cpu,
        batch=dict(ours=ours.batch, theirs=theirs.batch),
        turns=turns,
    )


def versions() -> dict[str, str]:
    """Of everything that takes part."""
    from importlib import metadata

    names = ("jax", "flax", "torch", "timm", "transformers")
    return {name: metadata.version(name) for name in names if importlib.util.find_spec(name)}


def report(found: dict[str, Any]) -> str:
    """The comparison as Markdown."""
    on_cpu = "CPU" in found["device"]
    columns = ["model", "mode", "batch", "ours, images/s", "peer", "theirs", "ours / theirs"]
    columns += ["of each turn", *(["of processor time"] if on_cpu else [])]
    lines = [
        f"{found['device']}, {found['dtype']}, ours with {found['ours']}, "
        + ", ".join(f"{name} {version}" for name, version in found["versions"].items()),
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
    ]
    for row in found["rows"]:
        cells = [
            row["model"],
            row["mode"],
            "/".join(str(size) for size in dict.fromkeys(row["batch"].values())),
            f"{row['ours']:,.2f}" if on_cpu else f"{row['ours']:,.0f}",
            row["peer"],
            f"{row['theirs']:,.2f}" if on_cpu else f"{row['theirs']:,.0f}",
            f"{row['ratio']:.2f}",
            " to ".join(f"{ratio:.2f}" for ratio in row["ratio_range"]),
            *([f"{row['processor_ratio']:.2f}"] if on_cpu else []),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def gpu_name() -> str | None:
    """The GPU that PyTorch sees; a process of its own, as one that has a GPU keeps memory."""
    code = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return found.stdout.strip() or None


def main() -> None:
    restart_with_huge_pages()  # for all who take part
    if "--contestant" in sys.argv:
        return be_contestant()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=SHAPES, help="default: see above")
    parser.add_argument(
        "--modes", nargs="+", choices=("train", "infer"), default=["train", "infer"]
    )
    parser.add_argument("--peers", nargs="+", choices=list(peers()), help="default: all there are")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (%(default)s)")
    parser.add_argument("--steps", type=int, help="of a turn; default: 2, on GPUs 50")
    parser.add_argument("--batch", type=int, help="default: 16, on GPUs each one's best")
    parser.add_argument(
        "--cpu-devices",
        type=int,
        help="config.parallel.cpu_devices of ours; default: as in a run",
    )
    parser.add_argument("--unroll", type=int, help="config.model.unroll; default: as in a run")
    parser.add_argument("--json", metavar="FILE", help="also write everything to FILE")
    args = parser.parse_args()
    gpu = gpu_name()
    dtype = "bfloat16" if gpu else "float32"
    case = dict(batch=args.batch or (None if gpu else CPU_BATCH), dtype=dtype)
    steps = args.steps or (50 if gpu else 2)
    cores = len(os.sched_getaffinity(0))
    flags = dict(cpu_devices=args.cpu_devices, unroll=args.unroll)
    ours = {name: value for name, value in flags.items() if value is not None}
    os.environ[OURS] = json.dumps(ours)
    device = gpu or f"{cores} CPU cores"
    found = dict(device=device, dtype=dtype, versions=versions(), ours=ours, rows=[])
    for model in args.models or (ON_GPU if gpu else ON_CPU):
        for mode in args.modes:
            for peer in args.peers or peers():
                found["rows"].append(compare(model, mode, peer, args.rounds, steps, **case))
                print(report(found).splitlines()[-1], file=sys.stderr, flush=True)
                if args.json:
                    with open(args.json, "w") as file:
                        json.dump(found, file, indent=2)
    print(report(found))


if __name__ == "__main__":
    main()
