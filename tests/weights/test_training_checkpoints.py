"""What training programs write: several sets of tensors, wrapped names, objects of their own."""

import argparse
import os
import pickle

import numpy as np
import pytest
from flax import traverse_util

from vit_jax.checkpoint import read_weights
from vit_jax.errors import InputError
from vit_jax.weights import read, write

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """timm's state dict of a small ViT, and what is read from it alone."""
    from safetensors.torch import load_file

    from tests.weights.test_json import small_weights

    file = tmp_path_factory.mktemp("state") / "x.safetensors"
    write(small_weights(gelu="erf"), file)
    return load_file(file)


def averaged(state):
    return {name: tensor + 1 for name, tensor in state.items()}


def embedding(weights):
    return weights.params["embedding"]["kernel"]


def saved(tmp_path, content):
    file = tmp_path / "x.pth"
    torch.save(content, file)
    return file


def check_is(weights, state):
    """The tensors of a state dict, transposed as torch's convolution says."""
    kernel = state["patch_embed.proj.weight"].numpy().transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(embedding(weights), kernel)
    block = np.stack([state[f"blocks.{i}.mlp.fc2.weight"].numpy().T for i in range(2)])
    np.testing.assert_array_equal(weights.params["blocks"]["mlp"]["fc2"]["kernel"], block)


WRAPPED = {
    "DistributedDataParallel": lambda name: f"module.{name}",
    "compile": lambda name: f"_orig_mod.{name}",
    "both": lambda name: f"module._orig_mod.{name}",
    "compiled blocks": lambda name: name.replace("blocks.0.", "blocks.0._orig_mod."),
    "DataParallel of a compiled model": lambda name: f"_orig_mod.module.{name}",
    "DINO": lambda name: f"module.backbone.{name}",
    "FSDP": lambda name: f"_fsdp_wrapped_module.{name}",
    "DINOv2 in chunks": lambda name: name.replace("blocks.", "blocks.0."),
}


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_names_with_wrappers(wrapper, state, tmp_path):
    content = {WRAPPED[wrapper](name): tensor for name, tensor in state.items()}
    check_is(read(saved(tmp_path, content), num_heads=4), state)


def test_torchs_own_wrappers_give_these_names():
    inner = torch.nn.Sequential(torch.nn.Linear(2, 2))
    assert "_orig_mod.0.weight" in torch.compile(inner).state_dict()
    assert "module.0.weight" in torch.nn.DataParallel(inner).state_dict()


def test_two_names_for_one_tensor_are_refused(state, tmp_path):
    file = saved(tmp_path, state | {"module.cls_token": state["cls_token"] + 1})
    with pytest.raises(InputError, match="cls_token twice"):
        read(file, num_heads=4)


def test_timms_training_checkpoint(state, tmp_path):
    """The trained parameters by default, the averaged ones on request; the other one is named."""
    content = dict(epoch=3, arch="vit", state_dict=state, state_dict_ema=averaged(state))
    content |= dict(optimizer={"state": {0: {"exp_avg": torch.ones(3)}}}, metric=0.5)
    file = saved(tmp_path, content | dict(args=argparse.Namespace(lr=0.1, betas=(0.9, 0.99))))
    found = read_weights(file, num_heads=4)
    check_is(found, state)
    assert any("took state_dict;" in line and "#state_dict_ema" in line for line in found.report)
    for averages in (
        read_weights(file, use_ema=True, num_heads=4),
        read_weights(f"{file}#state_dict_ema", num_heads=4),
    ):
        check_is(averages, averaged(state))
        assert any("took state_dict_ema" in line for line in averages.report)
    with pytest.raises(InputError, match="no tensors named 'emma'; it has state_dict"):
        read_weights(f"{file}#emma", num_heads=4)


def test_a_run_starts_from_the_averaged_parameters(state, tmp_path):
    """Also where the config has to tell the number of heads."""
    from vit_jax.config import default
    from vit_jax.train.start import starting_weights

    config = default()
    config.init_from = str(saved(tmp_path, dict(model=state, model_ema=averaged(state))))
    config.model.num_heads = 4
    check_is(starting_weights(config, tmp_path / "run").weights, state)
    config.init_ema = True
    check_is(starting_weights(config, tmp_path / "run").weights, averaged(state))


def test_dinos_checkpoint(state, tmp_path):
    """The teacher, which its authors evaluate, without the projection head."""
    body = {f"backbone.{name}": tensor for name, tensor in state.items() if "head" not in name}
    head = {"head.mlp.0.weight": torch.ones(2, 2), "head.last_layer.weight_g": torch.ones(2)}
    student = {f"module.{name}": tensor for name, tensor in (averaged(body) | head).items()}
    file = saved(tmp_path, dict(student=student, teacher=body | head, epoch=1))
    found = read(file, num_heads=4)
    check_is(found, state)
    assert found.config.num_classes == 0
    assert sum("only self-supervised training uses it" in line for line in found.report) == 2
    check_is(read(f"{file}#student", num_heads=4), averaged(state))


def test_several_sets_without_a_usual_name(state, tmp_path):
    file = saved(tmp_path, dict(net_a=state, net_b=averaged(state)))
    with pytest.raises(InputError, match="several sets of tensors: net_a, net_b.*x.pth#net_a"):
        read(file, num_heads=4)
    check_is(read(f"{file}#net_b", num_heads=4), averaged(state))


@pytest.mark.parametrize("name", ["last.pth.tar", "epoch=3.ckpt", "pytorch_model.bin"])
def test_endings_of_training_programs(name, state, tmp_path):
    torch.save(dict(state_dict={f"model.{k}": v for k, v in state.items()}), tmp_path / name)
    check_is(read(tmp_path / name, num_heads=4), state)


@pytest.mark.parametrize("content", [dict(epoch=3, args="x"), {}, [1, 2], torch.ones(3), None])
def test_a_file_without_tensors_says_what_it_has(content, tmp_path):
    file = saved(tmp_path, content)
    with pytest.raises(InputError, match="holds no tensors") as error:
        read(file)
    assert "\n" not in str(error.value)


class Runs:
    """A class whose objects create a file when they are unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


class Other:
    """A class of a training program, with state."""

    def __init__(self):
        self.values = {"lr": 0.1}


def test_nothing_that_is_stored_is_run(state, tmp_path):
    """Objects of other classes are skipped, functions are not called."""
    trap = tmp_path / "made"
    content = dict(model=state, args=Runs(trap), more=[Other(), np.float64(3.0), {1: Other()}])
    file = saved(tmp_path, content)
    try:
        check_is(read(file, num_heads=4), state)
    except InputError as error:
        assert "\n" not in str(error) and "state_dict" in str(error)
    assert not trap.exists()
    pickle.loads(pickle.dumps(Runs(trap)))
    assert trap.exists()  # the trap works


def test_objects_of_other_classes_are_skipped(state, tmp_path):
    content = dict(model=state, args=Other(), more=[np.float64(3.0), {1: Other()}, tmp_path])
    check_is(read(saved(tmp_path, content), num_heads=4), state)


@pytest.mark.parametrize("kind", ["pickle", "text", "cut", "empty"])
def test_damaged_pickles_are_one_line(kind, state, tmp_path):
    file = saved(tmp_path, state)
    content = {"pickle": pickle.dumps({"x": 1}), "text": b"hello", "empty": b""}
    file.write_bytes(content.get(kind, file.read_bytes()[:5000]))
    with pytest.raises(InputError) as error:
        read(file, num_heads=4)
    assert str(file) in str(error.value) and "\n" not in str(error.value)
    assert "\x1b" not in str(error.value)


def test_numbers_that_are_not_floating_point_are_refused(state, tmp_path):
    """A quantised file without its scales would be read as other numbers."""
    file = saved(tmp_path, state | {"cls_token": (state["cls_token"] * 9).to(torch.int8)})
    with pytest.raises(InputError, match="no floating-point numbers: cls_token int8"):
        read(file, num_heads=4)


def test_a_pickle_that_repeats_one_number_is_refused(state, tmp_path):
    """Strides of zero make a tensor of any size from four bytes."""
    content = dict(state, cls_token=torch.ones(1).expand(1, 1, 2**40))
    file = saved(tmp_path, content)
    with pytest.raises(InputError, match="cls_token claims more numbers than it holds"):
        read(file, num_heads=4)
    assert traverse_util.flatten_dict(read(saved(tmp_path, state), num_heads=4).params)
