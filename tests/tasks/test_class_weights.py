"""Class weights beside torch's CrossEntropyLoss(weight=) and the published formulas."""

import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import InputError
from vit_jax.config import default
from vit_jax.data.sources.source import ArraySource
from vit_jax.tasks import create_task
from vit_jax.tasks.losses import class_weights, create_loss

COUNTS = (100, 20, 3, 0)
rng = np.random.default_rng(0)
LOGITS = rng.normal(size=(16, 4)).astype(np.float32)
LABELS = rng.integers(0, 4, 16).astype(np.int32)
ROWS = rng.dirichlet(np.ones(4), 16).astype(np.float32)


def options(**values):
    section = default().loss
    section.update(values)
    return section


def test_inverse_weights_are_those_of_balanced_classes():
    """scikit-learn's class_weight="balanced": n_samples / (n_classes * bincount(y))."""
    weights = class_weights(options(class_weights="inverse"), COUNTS)
    np.testing.assert_allclose(weights[:3], 123 / (3 * np.array(COUNTS[:3])))
    assert weights[3] == 0
    sums = pytest.importorskip("sklearn.utils.class_weight")
    labels = np.repeat(np.arange(4), COUNTS)
    expected = sums.compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(weights[:3], expected)


@pytest.mark.parametrize("beta", [0.9, 0.9999])
def test_effective_weights_are_the_papers(beta):
    """Equation 2 of 1901.05555: E_n = 1 + beta E_(n-1); weights sum to the number of classes."""
    numbers = []
    for count in COUNTS[:3]:
        effective = 0.0
        for _ in range(count):
            effective = 1 + beta * effective
        numbers.append(1 / effective)
    expected = 3 * np.array(numbers) / sum(numbers)
    weights = class_weights(options(class_weights=f"effective(beta={beta})"), COUNTS)
    np.testing.assert_allclose(weights[:3], expected, rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("labels", [LABELS, ROWS], ids=["classes", "mixed"])
def test_the_softmax_loss_equals_torch(labels, smoothing):
    torch = pytest.importorskip("torch")
    weights = (0.2, 1.0, 3.0, 0.5)
    theirs = torch.nn.CrossEntropyLoss(
        weight=torch.tensor(weights), label_smoothing=smoothing, reduction="none"
    )
    target = torch.tensor(labels if labels.ndim > 1 else labels.astype(np.int64))
    expected = theirs(torch.tensor(LOGITS), target).numpy()
    section = options(class_weights="inverse", label_smoothing=smoothing)
    found = create_loss(section, weights)(jnp.asarray(LOGITS), jnp.asarray(labels))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_sigmoid_loss_of_an_example_has_the_weight_of_its_class():
    """Class-balanced sigmoid loss, section 4 of 1901.05555."""
    weights = np.array([0.2, 1.0, 3.0, 0.5])
    signs = np.where(np.eye(4)[LABELS] > 0, 1, -1)
    expected = weights[LABELS] * np.log1p(np.exp(-signs * LOGITS)).sum(-1)
    section = options(name="sigmoid", class_weights="inverse")
    found = create_loss(section, weights)(jnp.asarray(LOGITS), jnp.asarray(LABELS))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_sources_count_their_classes():
    common = dict(name="x", split="train", size=5, label_names=["a", "b", "c"])
    images = np.zeros((5, 2, 2, 3), np.uint8)
    source = ArraySource(images=images, targets=np.array([2, 0, 2, 2, 0]), **common)
    assert source.class_counts().tolist() == [2, 0, 3]
    sets = ArraySource(images=images, targets=np.eye(5, 3), multi_label=True, **common)
    with pytest.raises(InputError, match=r"x \(train\) does not tell the classes"):
        sets.class_counts()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"loss.class_weights": "invers"}, "unknown config.loss.class_weights 'invers'"),
        ({"loss.class_weights": "effective(beta=1)"}, "beta is 1; it must be in"),
        ({"loss.name": "sigmoid(mean=3)"}, "mean is 3; give True or False"),
        ({"loss.class_weights": "effective(gamma=1)"}, "unknown argument .* effective: 'gamma'"),
        (
            {"loss.class_weights": "inverse", "loss.name": "sigmoid", "data.multi_label": True},
            "counts one class for each image",
        ),
        ({"loss.class_weights": "inverse", "task": "masked"}, "looks at no labels"),
        ({"mixup.off_after.steps": 3}, "ends mixing, and nothing is mixed"),
    ],
)
def test_wrong_options_are_refused(changes, message):
    config = default()
    config.update_from_flattened_dict(changes)
    with pytest.raises(InputError, match=message) as error:
        create_task(config)
        class_weights(config.loss, COUNTS)
    assert "\n" not in str(error.value)
