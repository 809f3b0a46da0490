"""The rules by which a fine-tuning run is set up."""

import math

import pytest

from vit_jax import data, models
from vit_jax.errors import InputError
from vit_jax.finetune.choices import batch_size, choose, doubt, training_bytes
from vit_jax.finetune.facts import Base, Devices, Facts, Images
from vit_jax.train.log.metrics import LogOptions

GIB = 2**30


def base(name="ViT-B/16", size=224, **options):
    pp = data.parse(f"resize({size})|value_range(-1, 1)")
    return Base("weights", models.model_config(name, image_size=size, **options), pp, False)


def images(count, test="val", smallest=100, **changes):
    known = dict(source="folder:x", split="train", test=test, count=count, classes=10)
    return Images(**known | dict(smallest=smallest, multi_label=False) | changes)


def chosen(facts, **options):
    return {choice.option: choice.value for choice in choose(facts, **options)}


CPU, GPU = Devices(1, False, None), Devices(1, True, 80 * GIB)


def test_length_follows_bit_hyperrule():
    """500, 10,000 and 20,000 steps of 512 for up to 20,000, up to 500,000 and more images."""
    for count, examples in (
        (10_000, 500 * 512),
        (150_000, 10_000 * 512),
        (1_281_167, 20_000 * 512),
    ):
        found = chosen(Facts(base(), images(count), GPU))
        assert found["total.epochs"] == pytest.approx(examples / count, abs=0.5)
        assert found["optimizer.warmup.epochs"] == found["total.epochs"] / 10
        assert found.get("mixup.alpha") == (None if count < 20_000 else 0.1)


def test_length_is_bounded_and_never_less_than_200_steps():
    assert chosen(Facts(base(), images(2_000), GPU))["total.epochs"] == 50
    assert chosen(Facts(base(), images(14_000_000), GPU))["total.epochs"] == 8
    found = chosen(Facts(base(), images(20, smallest=2), CPU))
    assert math.ceil(20 * found["total.epochs"] / found["batch_size"]) == 200
    assert chosen(Facts(base(), images(60), CPU), epochs=3)["total.epochs"] == 3
    assert chosen(Facts(base(), images(2_000), GPU), share=0.1)["total.epochs"] == 5


def test_a_short_run_has_about_twenty_lines_of_metrics():
    for count, epochs in ((20, None), (60, 3), (2_000, None), (100_000, None)):
        found = chosen(Facts(base(), images(count), CPU), epochs=epochs)
        steps = math.ceil(count * found["total.epochs"] / found["batch_size"])
        every = found.get("log.every", LogOptions.every)
        assert 1 <= every <= steps and (steps // every >= 20 or every == 1)
    assert "log.every" not in found


def test_few_images_for_evaluation_are_told():
    assert "only 12 images" in doubt(images(1_000, tested=12))
    assert "only 1 image is" in doubt(images(1_000, tested=1))
    assert "only 20 images" in doubt(images(200, test=None))  # a tenth is held out
    assert not doubt(images(1_000, tested=30)) and not doubt(images(300, test=None))
    assert not doubt(images(1_000))  # a split that the user named is not opened


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_images_to_hold_one_out_are_refused(count):
    plural = "s" if count > 1 else ""
    with pytest.raises(InputError, match=f"has {count} image{plural} in split 'train'.* too few"):
        chosen(Facts(base(), images(count, test=None, smallest=1), CPU))
    assert chosen(Facts(base(), images(3, test=None, smallest=1), CPU))


def test_images_are_held_out_where_the_data_have_no_split_for_it():
    found = chosen(Facts(base(), images(1_000, test=None), CPU))
    assert (found["data.split"], found["evals.test.split"]) == ("train[:90%]", "train[90%:]")
    found = chosen(Facts(base(), images(30, test=None, smallest=3), CPU))
    assert (found["data.split"], found["evals.test.split"]) == ("train[:80%]", "train[80%:]")
    found = chosen(Facts(base(), images(1_000_000, test=None), GPU))
    assert found["evals.test.split"] == "train[99%:]"  # 10,000 are enough
    found = chosen(Facts(base(), images(1_000, test="val"), CPU))
    assert (found["data.split"], found["evals.test.split"]) == ("train", "val")
    found = chosen(Facts(base(), images(1_000, test=None), CPU), hold_out=False)
    assert found["data.split"] == "train"
    assert not {"evals.test.split", "checkpoint.best"} & set(found)


def test_preprocessing_is_that_of_the_weights_with_a_random_box():
    pp = "decode|inception_crop(224)|flip_lr|value_range(-1, 1)"
    found = chosen(Facts(base(), images(1_000), CPU))
    assert (
        found["data.pp"] == pp and found["evals.test.pp"] == "decode|resize(224)|value_range(-1, 1)"
    )
    few = chosen(Facts(base(), images(30, smallest=10), CPU))["data.pp"]
    assert few == pp.replace("(224)", "(224, area_min=50)")
    little = chosen(Facts(base(size=64), images(1_000), CPU))["data.pp"]
    assert little == pp.replace("(224)", "(64, area_min=50)")
    naflex = data.parse("naflex(64, 16)|value_range(-1, 1)")
    weights = Base("weights", models.model_config("ViT-B/16", naflex=64), naflex, False)
    found = chosen(Facts(weights, images(1_000), CPU))["data.pp"]
    assert found == "decode|flip_lr|naflex(patches=64)|value_range(-1, 1)"


@pytest.mark.parametrize(
    "count, batch", [(60, 8), (400, 16), (2_000, 128), (10_000, 512), (10**7, 512)]
)
def test_batch_size_follows_the_number_of_images(count, batch):
    assert batch_size(base(), images(count), GPU) == (batch, "none")
    assert batch_size(base(), images(count), CPU) == (min(batch, 32), "none")
    shares = Devices(8, True, 80 * GIB)
    assert batch_size(base(), images(count), shares)[0] % 8 == 0


def test_batch_size_fits_the_memory():
    large = base("ViT-L/16", size=384)
    small = Devices(1, True, 16 * GIB)
    batch, remat = batch_size(large, images(10**6), small)
    assert training_bytes(large, batch, remat) <= 0.8 * 16 * GIB
    assert batch == 512 or training_bytes(large, 2 * batch, remat) > 0.8 * 16 * GIB
    # No model of 7 billion parameters fits 16 GiB with its optimizer; the least is taken.
    assert batch_size(base("ViT-7B/16"), images(10**6), small) == (8, "full")
    found = chosen(Facts(base("ViT-7B/16"), images(10**6), small))
    assert found["model.remat"] == "full"


def test_estimated_memory_is_near_what_is_published():
    """timm's ViT-B/16 in mixed precision takes about 12 GB at batch 128 on one GPU."""
    assert 9e9 < training_bytes(base(), 128, "none") < 15e9


def test_optimizer_by_model():
    found = chosen(Facts(base(), images(10_000), GPU))
    assert found["optimizer.name"] == "adamw" and found["optimizer.layer_decay"] == 0.75
    assert found["optimizer.learning_rate"] == pytest.approx(5e-4 * 2**0.5, rel=0.02)
    tripled = chosen(Facts(base(), images(10_000), GPU), rate=3)
    assert tripled["optimizer.learning_rate"] == pytest.approx(1.5e-3 * 2**0.5, rel=0.02)
    for name, factor in {"ViT-L/16": 1, "ViT-S/16": 2, "ViT-Ti/16": 4}.items():  # 1 / width
        found = chosen(Facts(base(name), images(10_000), GPU))
        rate = factor * 5e-4 * (found["batch_size"] / 256) ** 0.5
        assert found["optimizer.learning_rate"] == pytest.approx(rate, rel=0.02)
    adapters = chosen(Facts(base("ViT-Ti/16"), images(10_000), GPU), method="lora")
    assert adapters["optimizer.learning_rate"] == pytest.approx(7.1e-3, rel=0.02)
    resnet = Base("w", models.model_config("BiT-R50x1"), base().preprocess, False)
    found = chosen(Facts(resnet, images(10_000), GPU))
    assert found["optimizer.name"] == "sgd" and found["optimizer.learning_rate"] == 0.003
    assert "optimizer.layer_decay" not in found
    assert found["model.dtype"] == "bfloat16"
    assert "model.dtype" not in chosen(Facts(base(), images(10_000), CPU))


def test_imagenet_is_regularised_as_beit_and_mae():
    found = chosen(Facts(base(), images(1_281_167), GPU))
    assert found["model.stochastic_depth"] == found["loss.label_smoothing"] == 0.1


def test_sets_of_classes_get_the_sigmoid_loss():
    found = chosen(Facts(base(), images(1_000, multi_label=True), CPU))
    assert found["loss.name"] == "sigmoid"
    assert found["checkpoint.best"] == "eval/test/mean_average_precision"


def test_each_choice_is_printed_as_its_override():
    for choice in choose(Facts(base(), images(30, test=None, smallest=3), CPU)):
        assert choice.line().startswith(f"--config.{choice.option}={choice.value!r}: ")
        assert choice.why and "\n" not in choice.line()
