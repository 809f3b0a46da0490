"""Muon beside its definition (U V^T of an SVD), Optax on unstacked matrices, and torch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.train.optim import stepping
from tests.train.optim.stepping import descend, nested
from vit_jax import InputError, models
from vit_jax.config import default
from vit_jax.train.optim import create_optimizer
from vit_jax.train.optim.matrices import matrix_axes, unit_axes
from vit_jax.weights.layout import OURS
from vit_jax.weights.record import parameter_shapes

L, D, H, K, M = 2, 12, 2, 3, 16
SHAPES = {
    "blocks/attention/qkv/kernel": (L, D, 3, H, K),
    "blocks/attention/out/kernel": (L, H, K, D),
    "blocks/mlp/fc1/kernel": (L, D, M),
    "blocks/mlp/fc1/bias": (L, M),
    "embedding/kernel": (4, 4, 3, D),
    "head/kernel": (D, 5),
}
# The same as matrices (inputs, outputs), by hand.
MATRICES = {
    "blocks/attention/qkv/kernel": lambda x: [
        x[layer, :, which].reshape(D, H * K) for layer in range(L) for which in range(3)
    ],
    "blocks/attention/out/kernel": lambda x: [x[layer].reshape(H * K, D) for layer in range(L)],
    "blocks/mlp/fc1/kernel": lambda x: [x[layer] for layer in range(L)],
}


def draw(seed):
    rng = np.random.default_rng(seed)
    return {path: rng.normal(size=shape).astype(np.float32) for path, shape in SHAPES.items()}


def run(name, steps, start, **options):
    """Parameters after steps with the gradients `draw(1)`, `draw(2)`, ..."""
    gradients = [draw(step + 1) for step in range(steps)]
    return stepping.run(start, gradients, name=name, **options)


def test_axes_are_those_of_the_weight_tables():
    """weights.layout names every axis of every parameter by a letter."""
    stacks, outputs_of = set("ltujgs"), dict(qkv="hk", query="HK", key_value="HK")
    for path, letters in OURS.items():
        if not path.endswith("/kernel") or "{" in path or "position_bias" in path:
            continue
        axes = matrix_axes(path, len(letters))
        spelled = ["".join(letters[axis] for axis in group) for group in axes]
        assert set(spelled[0]) <= stacks, path
        assert not set(spelled[1] + spelled[2]) & set("ltujg"), path
        outputs = outputs_of.get(path.split("/")[-2], letters[-1])
        assert spelled[2] == outputs, path
        assert sorted("".join(spelled)) == sorted(letters), path
    assert unit_axes("blocks/attention/qkv/bias", 4) == (1, 2, 3)
    assert unit_axes("posemb/embedding", 3) == (0, 1, 2)


def test_the_first_step_turns_gradients_into_nearly_orthogonal_matrices():
    """Singular values of the iteration lie in 0.5 to 1.5 and its vectors are the SVD's."""
    zeros = {path: np.zeros(shape, np.float32) for path, shape in SHAPES.items()}
    after = run("muon(consistent_rms=0.0)", 1, zeros, learning_rate=1.0)
    gradients = draw(1)
    for path, cut in MATRICES.items():
        for update, gradient in zip(cut(-after[path]), cut(gradients[path]), strict=True):
            u, _, vt = np.linalg.svd(gradient, full_matrices=False)
            rows, columns = gradient.shape
            update = np.asarray(update) / np.sqrt(max(1, columns / rows))
            inner = u.T @ update @ vt.T  # diagonal: the singular vectors are kept
            np.testing.assert_allclose(inner, np.diag(np.diag(inner)), atol=1e-4)
            assert (np.abs(np.diag(inner) - 1) < 0.5).all(), path


@pytest.mark.parametrize(
    "text, theirs",
    [
        ("muon", dict(consistent_rms=0.2)),
        ("muon(consistent_rms=0.0, nesterov=False, ns_steps=4)", dict(nesterov=False, ns_steps=4)),
        ("muon(preconditioning='aol', beta=0.8)", dict(preconditioning="aol", beta=0.8)),
    ],
)
def test_several_steps_equal_optax_on_unstacked_matrices(text, theirs):
    if "consistent" not in text:
        theirs = dict(consistent_rms=0.2) | theirs
    start = draw(0)
    after = run(text, 3, start, weight_decay=0.1)
    for path, cut in MATRICES.items():
        params = [jnp.asarray(x) for x in cut(start[path])]
        tx = optax.contrib.muon(0.1, weight_decay=0.1, **theirs)
        params = descend(tx, params, [cut(draw(step + 1)[path]) for step in range(3)])
        for mine, other in zip(cut(np.asarray(after[path])), params, strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5, err_msg=path)
    adam = run("adamw", 3, start, weight_decay=0.1)
    for path in SHAPES.keys() - MATRICES.keys():
        np.testing.assert_allclose(after[path], adam[path], rtol=1e-6, err_msg=path)


@pytest.mark.parametrize(
    "text, rule", [("muon", "match_rms_adamw"), ("muon(consistent_rms=0.0)", None)]
)
def test_steps_equal_torch_within_bfloat16(text, rule):
    """torch iterates in bfloat16; with equal gradients its momentum has the same direction."""
    torch = pytest.importorskip("torch")
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("torch before 2.9")
    start, path = draw(0), "blocks/mlp/fc1/kernel"
    after = run(text, 1, start, weight_decay=0.1)[path]
    for layer in range(L):
        tensor = torch.tensor(start[path][layer].T, requires_grad=True)  # (outputs, inputs)
        optimizer = torch.optim.Muon([tensor], lr=0.1, weight_decay=0.1, adjust_lr_fn=rule)
        tensor.grad = torch.tensor(draw(1)[path][layer].T)
        optimizer.step()
        moved = tensor.detach().numpy().T - start[path][layer]
        mine = np.asarray(after[layer]) - start[path][layer]
        np.testing.assert_allclose(mine, moved, atol=0.03 * np.abs(moved).max())


def test_adam_rate_is_a_share_of_muons_rate():
    start = draw(0)
    slow = run("muon(adam_rate=0.5)", 1, start)
    usual = run("muon", 1, start)
    for path, p in start.items():
        factor = 1.0 if path in MATRICES else 0.5
        np.testing.assert_allclose(slow[path] - p, factor * (usual[path] - p), atol=1e-6)


def test_every_kernel_of_the_blocks_of_a_real_model_is_a_matrix():
    config = models.model_config("ViT-Ti/16", num_classes=10, image_size=32, depth=2, head="map")
    params = nested({path: np.zeros(s, np.float32) for path, s in parameter_shapes(config).items()})
    section = default().optimizer
    section.name = "muon"
    tx, _ = create_optimizer(section, params, 10, batch_size=1, train_size=1)
    state = jax.eval_shape(tx.init, params)
    momenta = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(state)
    }
    muons = {name.split("/mu/")[1] for name in momenta if "/0/mu/" in name and "1/" not in name}
    adams = {name.split("/nu/")[1] for name in momenta if "/nu/" in name}
    kernels = {path for path in parameter_shapes(config) if path.endswith("/kernel")}
    assert kernels - adams == kernels - {"embedding/kernel", "head/kernel"}
    assert muons.isdisjoint(adams)


@pytest.mark.parametrize(
    "name, message",
    [
        (
            "muon(ns_step=5)",
            "unknown option of config.optimizer.name=muon; option 'ns_step'.*ns_steps",
        ),
        ("muon(ns_steps=0)", "ns_steps is 0; it must be a whole number, at least 1|at least 1"),
        ("muon(ns_steps=1.5)", "ns_steps is 1.5; it must be int"),
        ("muon(nesterov=1)", "nesterov is 1; it must be bool"),
        ("muon(beta=1.0)", "beta is 1.0"),
        ("muon(preconditioning='svd')", "unknown config.optimizer.name=muon.preconditioning"),
        ("muon(5)", "give options by name"),
        ("adamw(b3=1)", "adamw takes no arguments"),
    ],
)
def test_wrong_options_are_refused_in_one_line(name, message):
    with pytest.raises(InputError, match=message) as error:
        run(name, 0, draw(0))
    assert "\n" not in str(error.value)


def test_a_model_without_matrices_is_refused():
    config = default().optimizer
    config.name = "muon"
    with pytest.raises(InputError, match="muon' needs kernels of transformer blocks"):
        create_optimizer(
            config, {"head": {"kernel": jnp.ones((2, 2))}}, 1, batch_size=1, train_size=1
        )
