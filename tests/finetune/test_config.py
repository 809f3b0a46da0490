"""configs/images.py: from an argument to a config."""

import pytest

from tests.finetune.conftest import write_images
from vit_jax import InputError
from vit_jax.config_files import PREFIX, load_config
from vit_jax.finetune.config import Wanted
from vit_jax.finetune.run import prepare, warmup_of

CONFIG = "configs/images.py"


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("a.npz,folder:x", Wanted("a.npz", "folder:x")),
        ("a/b,tfds:pets?label=x,epochs=2.5", Wanted("a/b", "tfds:pets?label=x", 2.5)),
        ("w,folder:a,b", Wanted("w", "folder:a,b")),
        ("w,folder:a,image_size=32,rate=0.3,hold_out=False",
         Wanted("w", "folder:a", image_size=32, rate=0.3, hold_out=False)),
        ("w,folder:a,data.nested=top,evals.test.split=val",
         Wanted("w", "folder:a", told={"evals.test.split": "val", "data.nested": "top"})),
    ],
)  # fmt: skip
def test_the_argument_is_read_and_written(text, wanted):
    assert Wanted.parse(text) == wanted
    assert Wanted.parse(wanted.argument()) == wanted


@pytest.mark.parametrize(
    "text, message",
    [
        ("weights", "write WEIGHTS,DATA"),
        (",folder:x", "write WEIGHTS,DATA"),
        ("w,folder:x,epochs=many", "epochs=many: give a number above 0"),
        ("w,folder:x,epochs=nan", "epochs=nan"),
        ("w,folder:x,image_size=-1", "image_size=-1"),
        ("w,folder:x,hold_out=maybe", "give True or False"),
        ("w,folder:x,epoch=2", "did you mean 'epochs'"),
        ("w,folder:x,method=lorra", "unknown method of fine-tuning 'lorra'.*'lora'"),
    ],
)
def test_a_wrong_argument_is_named(text, message):
    with pytest.raises(InputError, match=message):
        Wanted.parse(text)


def test_without_an_argument():
    with pytest.raises(InputError, match="WEIGHTS,DATA"):
        load_config(CONFIG)


def test_a_folder_of_classes(pretrained, photos, caplog):
    caplog.set_level("INFO")
    config = load_config(f"{CONFIG}:{pretrained},folder:{photos}", ["--config.batch_size=16"])
    assert config.init_from == str(pretrained) and config.data.source == f"folder:{photos}"
    assert config.data.pp == "decode|inception_crop(16, area_min=50)|flip_lr|value_range(-1, 1)"
    assert (config.data.split, config.evals.test.split) == ("train[:90%]", "train[90%:]")
    assert config.batch_size == 16 and config.optimizer.warmup.steps is None
    assert "--config.batch_size=8: " in caplog.text


def test_what_the_user_gives_is_shown_after_the_choices(pretrained, photos, tmp_path, caplog):
    caplog.set_level("INFO")
    given = ["--config.batch_size=16"]
    prepare(str(pretrained), str(photos), workdir=str(tmp_path / "run"), overrides=given)
    chosen, last = [line for line in caplog.messages if line.startswith("--config.batch_size")]
    assert chosen.startswith("--config.batch_size=8: ")
    assert last == "--config.batch_size=16: as given"


def test_what_the_user_says_of_the_data_stays(pretrained, photos_in_splits, caplog):
    caplog.set_level("INFO")
    given = "data.split=val,evals.test.split=train,data.pp=resize(16)|value_range(-1, 1)"
    config = load_config(f"{CONFIG}:{pretrained},folder:{photos_in_splits},image_size=32,{given}")
    assert (config.data.split, config.evals.test.split) == ("val", "train")
    assert config.data.pp == "resize(16)|value_range(-1, 1)"
    assert config.evals.test.pp == "decode|resize(32)|value_range(-1, 1)"
    assert "--config.data.split" not in caplog.text


def test_methods(pretrained, photos, caplog):
    caplog.set_level("INFO")
    config = load_config(f"{CONFIG}:{pretrained},folder:{photos},method=lora")
    assert config.lora.rank == 8 and config.optimizer.layer_decay == 1
    assert config.optimizer.learning_rate == pytest.approx(5e-3 * (8 / 256) ** 0.5, rel=0.02)
    assert "--config.lora.rank=8: the method lora" in caplog.text
    caplog.clear()
    config = load_config(f"{CONFIG}:{pretrained},folder:{photos},method=probe")
    assert (config.optimizer.name, config.optimizer.weight_decay) == ("sgd", 0)
    assert config.optimizer.warmup.to_dict() == dict(steps=0, epochs=None, examples=None)
    assert "optimizer.warmup.epochs=None: the method probe" in caplog.text
    assert caplog.text.count("--config.optimizer.warmup.epochs") == 1


def test_the_splits_of_the_data_are_used(pretrained, photos_in_splits):
    config = load_config(f"{CONFIG}:{pretrained},folder:{photos_in_splits}")
    assert (config.data.split, config.evals.test.split) == ("train", "val")


def test_data_without_a_split_for_training_are_used_whole(pretrained, tmp_path):
    write_images(tmp_path / "test", 10)
    config = load_config(f"{CONFIG}:{pretrained},folder:{tmp_path}")
    assert (config.data.split, config.evals.test.split) == ("all[:90%]", "all[90%:]")


def test_a_split_that_leaves_nothing_to_evaluate_is_refused(pretrained, photos):
    with pytest.raises(InputError, match="evals.test.split"):
        load_config(f"{CONFIG}:{pretrained},folder:{photos},data.split=train[:50%]")


def test_weights_or_images_that_do_not_exist(pretrained, photos, tmp_path):
    with pytest.raises(InputError, match="no such directory"):
        load_config(f"{CONFIG}:{pretrained},folder:{tmp_path / 'none'}")
    with pytest.raises(InputError, match="none.npz"):
        load_config(f"{CONFIG}:{tmp_path / 'none.npz'},folder:{photos}")


@pytest.mark.parametrize(
    "given, method, warmup",
    [
        (["total.steps=150"], "full", ["optimizer.warmup.steps=15"]),
        (["total.epochs=2.5", "seed=1"], "lora", ["optimizer.warmup.epochs=0.25"]),
        (["total.examples=1000"], "head", ["optimizer.warmup.examples=100"]),
        (["total.steps=150", "optimizer.warmup.steps=3"], "full", []),
        (["total.steps=150"], "probe", []),  # which has none
        (["total.steps=many"], "full", []),
        (["seed=1"], "full", []),
    ],
)
def test_a_length_given_as_an_override_has_a_tenth_of_it_as_warm_up(given, method, warmup):
    overrides = [PREFIX + word for word in given]
    assert warmup_of(overrides, method) == [PREFIX + word for word in warmup]
