import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import InputError
from vit_jax.config import default
from vit_jax.tasks import create_task, losses

rng = np.random.default_rng(0)
LOGITS = rng.normal(size=(6, 5)).astype(np.float32) * 4
LABELS = np.array([0, 4, 2, 2, 1, 3], np.int32)
SOFT = rng.dirichlet(np.ones(5), size=6).astype(np.float32)
MULTI = (rng.random((6, 5)) > 0.5).astype(np.uint8)


def loss_of(**options):
    config = default().loss
    config.update(options)
    return losses.create_loss(config)


@pytest.mark.parametrize("labels", [LABELS, SOFT], ids=["index", "soft"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_softmax_equals_torch(labels, smoothing):
    torch = pytest.importorskip("torch")
    target = torch.tensor(labels.astype(np.int64) if labels.ndim == 1 else labels)
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(LOGITS), target, label_smoothing=smoothing, reduction="none"
    )
    actual = loss_of(name="softmax", label_smoothing=smoothing)(LOGITS, jnp.asarray(labels))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("labels", [SOFT, MULTI], ids=["soft", "multi"])
def test_sigmoid_sums_torch_binary_cross_entropy_over_classes(labels):
    torch = pytest.importorskip("torch")
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(LOGITS), torch.tensor(labels.astype(np.float32)), reduction="none"
    ).sum(-1)
    actual = loss_of(name="sigmoid")(LOGITS, jnp.asarray(labels))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("threshold", [None, 0.0, 0.2])
@pytest.mark.parametrize("mean", [False, True])
def test_thresholded_targets_equal_torch_on_targets_of_zeros_and_ones(smoothing, threshold, mean):
    """Smoothing, then the threshold, then torch's binary cross-entropy of each class."""
    torch = pytest.importorskip("torch")
    target = torch.tensor(SOFT) * (1 - smoothing) + smoothing / 5
    if threshold is not None:
        target = target.gt(threshold).to(target.dtype)
        assert threshold == 0.0 or 0 < target.mean() < 1
    each = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(LOGITS), target, reduction="none"
    )
    expected = each.mean(-1) if mean else each.sum(-1)
    loss = loss_of(name=f"sigmoid(threshold={threshold}, mean={mean})", label_smoothing=smoothing)
    np.testing.assert_allclose(loss(LOGITS, jnp.asarray(SOFT)), expected, rtol=1e-5)


def test_label_sets_may_have_a_loss_with_arguments_but_no_other_loss():
    config = default()
    config.data.multi_label = True
    config.loss.name = "sigmoid(mean=True)"
    create_task(config)
    config.loss.name = "softmax"
    with pytest.raises(InputError, match="multi_label needs config.loss.name='sigmoid'"):
        create_task(config)


def test_loss_before_training_is_the_closed_form():
    zeros, labels = jnp.zeros((6, 5)), jnp.asarray(LABELS)
    np.testing.assert_allclose(loss_of(name="softmax")(zeros, labels), np.log(5), rtol=1e-6)
    np.testing.assert_allclose(loss_of(name="sigmoid")(zeros, labels), 5 * np.log(2), rtol=1e-6)
    # Head bias -10: one missed class costs 10 nats, the others next to nothing.
    expected = 10 + 5 * np.log1p(np.exp(-10))
    np.testing.assert_allclose(loss_of(name="sigmoid")(zeros - 10, labels), expected, rtol=1e-6)


def test_smoothing_of_the_sigmoid_loss_spreads_over_classes():
    smoothed = loss_of(name="sigmoid", label_smoothing=0.2)(LOGITS[:1, :4], jnp.asarray([1]))
    rows = jnp.asarray([[0.05, 0.85, 0.05, 0.05]])
    np.testing.assert_allclose(smoothed, loss_of(name="sigmoid")(LOGITS[:1, :4], rows), rtol=1e-6)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_extreme_logits_stay_finite_and_bfloat16_is_summed_in_float32(name):
    loss = loss_of(name=name)
    logits = jnp.array([[1e4, -1e4], [-1e4, 1e4]])
    labels = jnp.array([0, 0])
    assert np.isfinite(loss(logits, labels)).all()
    assert np.isfinite(jax.grad(lambda x: loss(x, labels).sum())(logits)).all()
    half = jnp.asarray(LOGITS, jnp.bfloat16)
    assert loss(half, jnp.asarray(LABELS)).dtype == jnp.float32
    np.testing.assert_array_equal(
        loss(half, jnp.asarray(LABELS)), loss(half.astype(jnp.float32), jnp.asarray(LABELS))
    )


def test_top_k_equals_sklearn():
    metrics = pytest.importorskip("sklearn.metrics")
    for k in (1, 2, 3):
        expected = metrics.top_k_accuracy_score(LABELS, LOGITS, k=k, labels=range(5))
        actual = losses.top_k_correct(jnp.asarray(LOGITS), jnp.asarray(LABELS), k)
        assert actual.shape == (6,)
        assert np.mean(actual) == pytest.approx(expected)


def test_top_k_ties_go_to_the_lower_class_as_in_argmax():
    logits, labels = jnp.zeros((3, 4)), jnp.array([0, 1, 3])
    np.testing.assert_array_equal(losses.top_k_correct(logits, labels, 1), [True, False, False])
    np.testing.assert_array_equal(losses.top_k_correct(logits, labels, 2), [True, True, False])


def test_top_k_beyond_the_number_of_classes_and_nan():
    nan = jnp.array([[jnp.nan] * 3, [jnp.nan, 2.0, 1.0], [0.0, 2.0, 1.0]])
    labels = jnp.array([0, 1, 0])
    np.testing.assert_array_equal(losses.top_k_correct(nan, labels, 1), [False, False, False])
    np.testing.assert_array_equal(losses.top_k_correct(nan, labels, 5), [False, False, True])


def test_top_1_of_several_right_classes():
    logits = jnp.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    labels = jnp.array([[1, 1, 0], [0, 1, 1], [0, 0, 0]], jnp.uint8)
    np.testing.assert_array_equal(losses.top_k_correct(logits, labels, 1), [True, False, False])
    np.testing.assert_array_equal(losses.top_k_correct(logits, labels, 2), [True, True, False])


@pytest.mark.parametrize("k", [1, 2, 5, 40])
@pytest.mark.parametrize("several", [False, True])
def test_top_k_is_that_of_a_stable_sort(k, several):
    """Of NumPy, with many ties and infinities."""
    rng = np.random.default_rng(k)
    logits = rng.integers(-4, 5, (200, 20)).astype(np.float32)
    logits[rng.random(logits.shape) < 0.1] = -np.inf
    logits[rng.random(logits.shape) < 0.02] = np.inf
    right = rng.random(logits.shape) < 0.1 if several else np.eye(20)[rng.integers(0, 20, 200)]
    top = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    wanted = np.take_along_axis(np.asarray(right, bool), top, 1).any(1)
    labels = np.asarray(right, np.uint8) if several else right.argmax(1)
    np.testing.assert_array_equal(losses.top_k_correct(logits, labels, k), wanted)
    assert 0 < wanted.mean() < 1 or k >= 20


def test_top_k_sorts_nothing():
    text = jax.jit(losses.top_k_correct, static_argnums=2).lower(LOGITS, LABELS, 2).as_text()
    assert "stablehlo.sort" not in text and "chlo.top_k" not in text


def test_wrong_options_are_refused():
    with pytest.raises(InputError, match="did you mean 'softmax'"):
        loss_of(name="sofmax")
    with pytest.raises(InputError, match="label_smoothing"):
        loss_of(label_smoothing=1.0)
    with pytest.raises(InputError, match="threshold is 1.5"):
        loss_of(name="sigmoid(threshold=1.5)")
