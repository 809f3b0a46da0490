import ast
import math
from pathlib import Path

import numpy as np
import pytest

from vit_jax import InputError, models
from vit_jax.config import default, in_steps
from vit_jax.config_files import load_config
from vit_jax.data.ops.color import AUGREG, RandAugment
from vit_jax.data.ops.preprocess import parse
from vit_jax.models.flops import parameters
from vit_jax.tasks.losses import create_loss
from vit_jax.tasks.mixup import create_mix
from vit_jax.train.optim import create_optimizer

ROOT = Path(__file__).parent.parent / "configs"
# images.py (tests/finetune) and scratch.py have no default: they read what the argument names.
FILES = sorted({file.stem for file in ROOT.glob("*.py")} - {"images", "scratch"})
IMAGENET, IMAGENET_21K = 1_281_167, 14_197_122
FINETUNE = ("imagenet", "cifar10", "cifar100", "pets", "flowers")
VARIANTS = [
    *(f"vit_s16_i1k:{epochs}" for epochs in (90, 150, 300)),
    *(f"vit_i1k:{model}" for model in ("ViT-B/16", "ViT-L/32", "vit_s16")),
    *(f"vit_i21k:ViT-{model}" for model in ("B/16", "B/32", "L/16", "L/32")),
    *(f"augreg:ViT-S/16,i1k,{level}" for level in AUGREG),
    *(f"augreg:{model},i21k,light1" for model in ("ViT-Ti/16", "R26+ViT-S/32", "R50+ViT-L/32")),
    *(f"vit_jft:{model}" for model in ("ViT-B/32", "ViT-H/14", "R50+ViT-L/16", "BiT-R152x2")),
    *(f"masked_patch:{dataset}" for dataset in ("jft", "imagenet")),
    *(f"igpt:{model}" for model in ("iGPT-S", "iGPT-M", "iGPT-L,48")),
    *(f"finetune:ViT-B/16,{dataset}" for dataset in FINETUNE),
    *(f"finetune:{model},imagenet512" for model in ("ViT-L/16", "ViT-H/14", "BiT-R152x2")),
    *(f"vtab:ViT-L/16,{task}" for task in ("pets", "clevr_count", "dsprites_orientation,select")),
    *(f"finetune:{model},pets,dev" for model in ("ViT-H/14", "R50+ViT-B/16", "BiT-R50x1")),
]


def load(spec, *overrides):
    name, _, arg = spec.partition(":")
    return load_config(f"{ROOT / name}.py" + f":{arg}" * bool(arg), list(overrides))


def keys(config, prefix=""):
    for key, value in config.items():
        if hasattr(value, "items"):
            yield from keys(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def schedule_of(config, train_size=IMAGENET):
    """Length of the run in steps and its learning rates."""
    sizes = dict(batch_size=config.batch_size, train_size=train_size)
    total = in_steps(config.total, name="total", **sizes)
    params = {"head": {"kernel": 0.0}}
    return total, create_optimizer(config.optimizer, params, total, **sizes)[1]


@pytest.mark.parametrize("name", FILES)
def test_every_config_has_only_known_options_and_its_command(name):
    config = load(name)
    own = [key for key in keys(config) if not key.startswith("evals.")]
    assert own == list(keys(default()))
    docstring = ast.get_docstring(ast.parse((ROOT / f"{name}.py").read_text()))
    assert f"vit_jax train --config=configs/{name}.py" in docstring


@pytest.mark.parametrize("spec", VARIANTS)
def test_every_variant_fits_together(spec):
    config = load(spec)
    options = dict(config.model)
    pp = parse(config.data.pp)
    options["image_size"] = pp.image_size
    model = models.model_config(options.pop("name"), **options)
    if "BiT" not in spec and "R50" not in spec:
        assert [size % patch for size, patch in zip(model.image_size, model.patch_size)] == [0, 0]
    assert pp.mean == pp.std == (0.5,) * 3
    for entry in config.evals.values():
        assert parse(entry.pp).image_size == pp.image_size
        assert parse(entry.pp).deterministic() == parse(entry.pp)
        assert (parse(entry.pp).mean, parse(entry.pp).std) == (pp.mean, pp.std)
        assert entry.split != config.data.split
    create_loss(config.loss)
    create_mix(config.mixup)
    total, schedule = schedule_of(config)
    assert float(schedule(total)) == pytest.approx(0, abs=1e-9)


def test_better_plain_vit():
    """2205.01580: 1e-4 of decay after the learning rate 1e-3 is 0.1 before it."""
    config = load("vit_s16_i1k:90")
    total, schedule = schedule_of(config, train_size=round(0.99 * IMAGENET))
    assert total == pytest.approx(90 * 0.99 * IMAGENET / 1024, abs=1)
    peak = float(schedule(10_000))
    assert peak == pytest.approx(1e-3)
    assert peak * config.optimizer.weight_decay == pytest.approx(1e-4)
    assert load("vit_s16_i1k:300").total.epochs == 300


@pytest.mark.parametrize(
    "level, layers, magnitude, mixup",
    [("none", 0, 0, 0), ("light1", 2, 0, 0), ("light2", 2, 10, 0.2), ("medium1", 2, 15, 0.2),
     ("medium2", 2, 15, 0.5), ("strong1", 2, 20, 0.5), ("strong2", 2, 20, 0.8)],
)  # fmt: skip
def test_levels_of_augreg(level, layers, magnitude, mixup):
    """2106.10270, section 3."""
    config = load(f"augreg:ViT-B/16,i21k,{level}")
    named = parse(config.data.pp).ops[-1]
    assert (
        named.randaugment == RandAugment(layers, magnitude, published=True)
        and config.mixup.alpha == mixup
    )
    total, schedule = schedule_of(config, 0.99 * IMAGENET_21K)
    assert total == pytest.approx(300 * 0.99 * IMAGENET_21K / 4096, abs=1)
    assert float(schedule(10_000)) == pytest.approx(1e-3)


def test_augreg_follows_the_code_of_its_authors():
    """big_vision's configs/vit_i1k.py and vit_i21k.py, and the init of models/vit.py."""
    small, large = load("augreg:ViT-S/16,i1k,medium2"), load("augreg:ViT-B/16,i21k,light2")
    assert small.loss.name == large.loss.name == "sigmoid"
    assert (small.model.head_bias, large.model.head_bias) == (-6.9, -10.0)
    assert small.model.pre_logits == -1 and not large.model.pre_logits
    assert small.model.posemb_std == pytest.approx(1 / np.sqrt(384))
    assert large.model.posemb_std == pytest.approx(1 / np.sqrt(768))
    assert small.optimizer.moment_dtype == "bfloat16"
    assert "randaug(2, 10, published=True)" in load("vit_s16_i1k").data.pp


@pytest.mark.parametrize(
    "argument, message",
    [
        ("igpt:iGPT-X", "unknown argument of configs/igpt.py: 'iGPT-X' .did you mean 'iGPT-S'"),
        ("igpt:cifar10,32", "cifar10 takes no size"),
        ("two_by_two:quadratic,cifar10,/x", "only fashion_mnist takes a folder"),
    ],
)
def test_a_wrong_argument_of_a_config_is_named(argument, message):
    with pytest.raises(InputError, match=message):
        load(argument)


def test_two_by_two_has_the_setting_of_its_publication():
    """1911.03584 and its code: 300 epochs of 500 steps, a twentieth of them warm-up."""
    for name, millions in (("quadratic", 12.1), ("learned", 12.3), ("content", 29.5)):
        config = load(f"two_by_two:{name},cifar10")
        total, schedule = schedule_of(config, train_size=50_000)
        assert total == 150_000
        assert float(schedule(7500)) == pytest.approx(0.1)
        options = dict(config.model, num_classes=10)
        pp = parse(config.data.pp)
        model = models.model_config(options.pop("name"), **options | dict(image_size=pp.image_size))
        assert parameters(model) / 1e6 == pytest.approx(millions, rel=0.005)
        assert (model.num_tokens, pp.mean[0], pp.std[0]) == (256, 0.4914, 0.2023)
    load("two_by_two:ViT,cifar10")
    small, ours = load("small:ViT,images").to_dict(), load("two_by_two:ViT,fashion_mnist,images")
    for name in ("data", "batch_size", "total", "optimizer", "log", "evals"):
        assert ours.to_dict()[name] == small[name]
    assert (ours.model.name, ours.model.width, ours.data.source) == ("ViT-Ti/2", 64, "idx:images")
    for arg, message in (("cubic", "unknown model with 2x2"), ("ViT,mnist", "unknown data set")):
        with pytest.raises(InputError, match=message):
            load(f"two_by_two:{arg}")


def test_table_3():
    total, schedule = schedule_of(load("vit_i1k"))
    assert total == pytest.approx(93.8e3, rel=1e-3)
    assert float(schedule(10_000)) == pytest.approx(3e-3)
    # Cosine: half of the peak in the middle of the decay.
    assert float(schedule(10_000 + (total - 10_000) / 2)) == pytest.approx(1.5e-3)

    config = load("vit_i21k:ViT-L/16", "--config.total.epochs=30")
    total, schedule = schedule_of(config, IMAGENET_21K)
    assert total == pytest.approx(30 * IMAGENET_21K / 4096, abs=1)
    assert float(schedule(10_000 + (total - 10_000) / 2)) == pytest.approx(0.5e-3)

    assert schedule_of(load("vit_jft:ViT-B/16"))[0] == pytest.approx(518e3, rel=1e-3)
    total, schedule = schedule_of(load("vit_jft:ViT-H/14"))
    assert total == pytest.approx(1.036e6, rel=1e-3)
    assert float(schedule(10_000)) == pytest.approx(3e-4)


def test_masked_patch_prediction():
    """B.1.2: 1M steps on JFT, the rate of 2e-4 reached after 10k and lowered by a cosine."""
    total, schedule = schedule_of(load("masked_patch:jft"))
    assert total == 1_000_000
    assert float(schedule(10_000)) == pytest.approx(2e-4)
    assert float(schedule(505_000)) == pytest.approx(1e-4)
    assert schedule_of(load("masked_patch:imagenet"))[0] == 100_000


@pytest.mark.parametrize(
    "dataset, steps, warmup, dev",
    [
        ("imagenet", 20_000, 500, "train[99%:]"),
        ("cifar10", 10_000, 500, "train[98%:]"),
        ("cifar100", 10_000, 500, "train[98%:]"),
        ("pets", 500, 100, "train[90%:]"),
        ("flowers", 500, 100, "train[90%:]"),
    ],
)
def test_table_4(dataset, steps, warmup, dev):
    config = load(f"finetune:ViT-L/16,{dataset}")
    total, schedule = schedule_of(config)
    assert (total, config.batch_size, config.data.split) == (steps, 512, "train")
    assert max(range(total), key=lambda t: float(schedule(t)) if t % 50 == 0 else 0) == warmup
    assert load(f"finetune:ViT-L/16,{dataset},dev").evals.dev.split == dev


def test_fourteen_pixel_patches_keep_the_grid_of_384():
    pp = parse(load("finetune:ViT-H/14,cifar10").data.pp)
    assert pp.image_size == (27 * 14, 27 * 14)


@pytest.mark.parametrize("model, size", [("ViT-L/16", 512), ("ViT-H/14", 518)])
def test_table_2_averages_parameters_at_a_high_resolution(model, size):
    config = load(f"finetune:{model},imagenet512")
    assert parse(config.data.pp).image_size == (size, size)
    assert config.optimizer.ema_decay == 0.9999 and config.evals.test.use_ema


@pytest.mark.parametrize(
    "spec, message",
    [
        ("vit_s16_i1k:80", "unknown number of epochs '80'"),
        ("vit_i1k:ViT-X/16", "unknown model 'ViT-X/16'"),
        ("vit_i21k:ViT-Ti/16", "unknown model in ImageNet-21k pre-training"),
        ("vit_jft:ViT-B/8", "unknown model in JFT pre-training"),
        ("augreg:ViT-B/16,i1k", "MODEL,DATA,LEVEL"),
        ("augreg:ViT-B/16,i22k,none", "did you mean 'i21k'"),
        ("augreg:ViT-B/16,i1k,medium", "did you mean 'medium"),
        ("masked_patch:i21k", "unknown data set to pre-train on 'i21k'"),
        ("finetune:ViT-B/16", "MODEL,DATASET"),
        ("finetune:ViT-B/16,cifar", "did you mean 'cifar10'"),
        ("finetune:ViT-B/16,cifar10,test", "MODEL,DATASET,dev"),
        ("scratch:ViT-B/16", "MODEL,DATA"),
        ("scratch:ViT-X/16,digits", "unknown model 'ViT-X/16'"),
        ("scratch:ViT-B/16,digits,image_size=big", "image_size=big: give a whole number"),
        ("scratch:ViT-B/16,digits,epochs=0", "epochs=0: give a whole number"),
    ],
)
def test_wrong_arguments_are_refused(spec, message):
    with pytest.raises(InputError, match=message):
        load(spec)


def test_a_model_from_scratch_on_own_images():
    config = load("scratch:vit_b16,digits,epochs=20,image_size=48")
    assert (config.model.name, config.model.image_size) == ("ViT-B/16", 48)
    assert (config.data.split, config.evals.test.split) == ("train[:90%]", "train[90%:]")
    for pp in (config.data.pp, config.evals.test.pp):
        assert parse(pp).image_size == (48, 48)
    # 1,617 images, batch 64, 20 epochs; the peak, after a tenth, is 1e-3 * sqrt(64 / 1024).
    total, schedule = schedule_of(config, train_size=1617)
    assert total == math.ceil(20 * 1617 / 64)
    rates = [float(schedule(step)) for step in range(total)]
    assert max(rates) == pytest.approx(2.5e-4, rel=0.01)
    assert abs(rates.index(max(rates)) - total / 10) <= 1
    assert load("scratch:BiT-R50x1,digits").model.head == default().model.head
