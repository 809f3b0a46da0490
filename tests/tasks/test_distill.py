"""Distillation: its losses beside torch, the view that a teacher sees, classes, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import models
from vit_jax.config import default
from vit_jax.errors import InputError
from vit_jax.models.forms.platform import training_form
from vit_jax.tasks import bind, create_task
from vit_jax.tasks.distill import Teacher, feature_loss, hard_loss, soft_loss
from vit_jax.tasks.mixup import create_mix
from vit_jax.train.distill.teacher import matched_classes

torch = pytest.importorskip("torch")
rng = np.random.default_rng(0)
BATCH, CLASSES = 4, 5
MEAN, STD = (0.5, 0.4, 0.3), (0.5, 0.2, 0.3)
TEACHER_MEAN, TEACHER_STD = (0.1, 0.2, 0.3), (1.0, 0.9, 0.8)


def deit_loss(labels_loss, student, teacher, kind, alpha, tau):
    """DeiT's loss, written with torch's functions as in 2012.12877; tensors (B, K).

    Its code divides the soft loss by the number of classes too; the paper does not.
    """
    functional = torch.nn.functional
    if kind == "soft":
        logs = (functional.log_softmax(x / tau, dim=1) for x in (student, teacher))
        taught = functional.kl_div(*logs, reduction="none", log_target=True).sum(1) * tau**2
    else:
        taught = functional.cross_entropy(student, teacher.argmax(dim=1), reduction="none")
    return labels_loss * (1 - alpha) + taught * alpha


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_losses_of_logits_equal_torch(temperature):
    student, teacher = (rng.normal(size=(6, CLASSES)).astype(np.float32) * 3 for _ in range(2))
    for kind, actual in (
        ("soft", soft_loss(student, teacher, temperature)),
        ("hard", hard_loss(jnp.asarray(student), jnp.asarray(teacher))),
    ):
        tensors = map(torch.tensor, (student, teacher))
        expected = deit_loss(torch.zeros(6), *tensors, kind, 1.0, temperature)
        np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=1e-6)


def test_gradient_of_the_soft_loss_is_a_difference_of_probabilities():
    """T (softmax(student / T) - softmax(teacher / T)), equation 2 of 1503.02531 times T^2."""
    student, teacher = (jnp.asarray(rng.normal(size=(3, CLASSES)) * 3) for _ in range(2))
    gradient = jax.grad(lambda x: soft_loss(x, teacher, 4.0).sum())(student)
    expected = 4.0 * (jax.nn.softmax(student / 4.0) - jax.nn.softmax(teacher / 4.0))
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


def test_losses_of_features_equal_torch():
    a, b = (rng.normal(size=(6, 8)).astype(np.float32) for _ in range(2))
    cosine = 1 - torch.nn.functional.cosine_similarity(torch.tensor(a), torch.tensor(b))
    np.testing.assert_allclose(feature_loss(a, b, "cosine"), cosine, rtol=1e-5)
    mse = torch.nn.functional.mse_loss(torch.tensor(a), torch.tensor(b), reduction="none").mean(1)
    np.testing.assert_allclose(feature_loss(a, b, "mse"), mse, rtol=1e-5)


def random_params(config, seed):
    graphdef, shapes = models.abstract(functools.partial(models.build_model, config))
    draw = np.random.default_rng(seed)
    return graphdef, jax.tree.map(
        lambda leaf: jnp.asarray(draw.normal(0.2, 0.3, leaf.shape), jnp.float32), shapes
    )


def student_config(**options):
    tiny = dict(width=16, depth=1, mlp_dim=24, num_heads=2, num_classes=CLASSES, image_size=(8, 8))
    return models.model_config("ViT-Ti/4", **tiny | options)


def distilling(student, places=None, **options):
    """The task with a teacher of 12 x 10 pixels and another normalisation; the teacher alone."""
    config = default()
    config.task = "distill"
    config.distill.teacher = "teacher"
    config.update_from_flattened_dict(options)
    classes = 0 if config.distill.kind == "feature" else CLASSES + 2 if places else CLASSES
    own = student_config(width=24, num_classes=classes, patch_size=2, image_size=(12, 10))
    graphdef, teacher_params = random_params(own, 1)
    teacher = Teacher(own, graphdef, TEACHER_MEAN, TEACHER_STD, places)
    task = create_task(config)
    task = task.__class__(teacher=teacher)
    student_graphdef, shapes = models.abstract(functools.partial(task.build_model, student))
    draw = np.random.default_rng(2)
    params = jax.tree.map(
        lambda x: jnp.asarray(draw.normal(0.1, 0.3, x.shape), jnp.float32), shapes
    )
    task = bind(task, config, student, student_graphdef, MEAN, STD).with_frozen(teacher_params)
    return task, params, lambda images: models.merge(graphdef, teacher_params)(images)


def batch():
    return dict(
        image=jnp.asarray(rng.integers(0, 256, (BATCH, 8, 8, 3)), jnp.uint8),
        label=jnp.asarray(rng.integers(0, CLASSES, BATCH), jnp.int32),
    )


def seen(pixels):
    """Pixels 0 to 1 as the teacher wants them, by torch."""
    resized = torch.nn.functional.interpolate(
        torch.tensor(np.asarray(pixels)).permute(0, 3, 1, 2),
        (12, 10),
        mode="bilinear",
        antialias=True,
    )
    return (resized.permute(0, 2, 3, 1).numpy() - TEACHER_MEAN) / TEACHER_STD


@pytest.mark.parametrize(
    "kind, token, alpha", [("soft", "head", 0.3), ("hard", "none", 0.7), ("soft", "none", 1.0)]
)
def test_the_step_is_deits_on_the_view_of_the_model(kind, token, alpha):
    student = student_config(distillation=token)
    places = (6, 0, 2, 3, 5) if kind == "hard" else None
    temperature = 3.0 if kind == "soft" else 1.0
    task, params, teacher = distilling(
        student,
        places,
        **{"distill.kind": kind, "distill.alpha": alpha, "distill.temperature": temperature},
        **{"mixup.cutmix_alpha": 1.0, "loss.label_smoothing": 0.1},
    )
    given, key = batch(), jax.random.key(3)
    inputs = task.inputs(given, key, None)
    actual = task.losses(task.model(params), inputs, None)

    # The same, from pixels: mixed first, then given to both.
    mix = create_mix(task.setting.config.mixup)
    rows = jnp.asarray(np.eye(CLASSES, dtype=np.float32)[given["label"]])
    pixels = given["image"].astype(jnp.float32) / 255
    pixels, rows = mix(pixels, rows, key=jax.random.split(key)[0])
    assert not np.allclose(pixels, given["image"] / 255)
    taught = np.asarray(teacher(jnp.asarray(seen(pixels), jnp.float32)))
    taught = taught[:, list(places)] if places else taught
    own = (np.asarray(pixels) - MEAN) / STD
    logits, out = task.model(params)(jnp.asarray(own, jnp.float32), return_intermediates=True)
    heads = jax.tree.map(np.asarray, params)
    of_class = out["pre_logits"] @ heads["head"]["kernel"] + heads["head"]["bias"]
    of_teacher = of_class
    if token == "head":
        dist = heads["head_dist"]
        of_teacher = np.asarray(out["encoded"])[:, 1] @ dist["kernel"] + dist["bias"]
        np.testing.assert_allclose(logits, (of_class + of_teacher) / 2, rtol=1e-4, atol=1e-5)
    of_class, of_teacher, taught, rows = (
        torch.tensor(np.array(x)) for x in (of_class, of_teacher, taught, rows)
    )
    labels = torch.nn.functional.cross_entropy(
        of_class, rows, label_smoothing=0.1, reduction="none"
    )
    expected = deit_loss(labels, of_teacher, taught, kind, alpha, temperature)
    np.testing.assert_allclose(actual, expected, rtol=2e-3, atol=1e-4)


def test_features_are_compared_after_the_projection():
    task, params, teacher = distilling(
        student_config(),
        **{"distill.kind": "feature", "distill.feature_loss": "mse", "distill.alpha": 1.0},
    )
    given = batch()
    inputs = task.inputs(given, jax.random.key(0), None)
    actual = task.losses(task.model(params), inputs, None)
    taught = teacher(jnp.asarray(seen(given["image"].astype(jnp.float32) / 255), jnp.float32))
    _, out = task.model(params)(inputs.images, return_intermediates=True)
    projection = params["distill"]["projection"]
    own = out["pre_logits"] @ projection["kernel"] + projection["bias"]
    np.testing.assert_allclose(actual, ((own - taught) ** 2).mean(1), rtol=2e-3, atol=1e-4)


def test_the_distillation_token_learns_from_the_teacher_alone_and_the_teacher_nothing():
    task, params, _ = distilling(student_config(distillation="head"), **{"distill.alpha": 0.4})
    inputs = task.inputs(batch(), jax.random.key(0), None)

    def loss(params, frozen, alpha_of):
        own = task.with_frozen(frozen)
        return own.losses(own.model(params), inputs._replace(targets=alpha_of), None).sum()

    one, other = inputs.targets, jnp.roll(inputs.targets, 1, axis=1)
    gradients = [jax.grad(loss, (0, 1))(params, task.frozen, targets) for targets in (one, other)]
    (first, teacher), (second, _) = gradients
    for a, b in zip(*(jax.tree.leaves(x["head_dist"]) for x in (first, second)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    assert not np.allclose(first["head"]["bias"], second["head"]["bias"])
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(teacher))


def test_the_teacher_has_the_form_of_inference():
    """On CPUs a loop over blocks, although training has none."""
    config = student_config(depth=3)
    graphdef, params = random_params(config, 1)
    teacher = Teacher(config, graphdef, MEAN, STD)

    def unrolled(function):
        with training_form():
            graph = jax.make_jaxpr(function)(jnp.zeros((2, 8, 8, 3)))
        return [e.params["unroll"] for e in graph.jaxpr.eqns if e.primitive.name == "scan"]

    assert unrolled(lambda images: models.merge(graphdef, params)(images)) == [3]
    assert unrolled(lambda images: teacher(params, images, MEAN, STD)) == [1]


def test_classes_are_matched_by_name_or_by_number():
    assert matched_classes("abc", 3, "abc", 3) is None
    assert matched_classes("abc", 3, "xcbaz", 5) == (3, 2, 1)
    assert matched_classes((), 3, "abc", 3) is None
    assert matched_classes("abc", 3, (), 3) is None
    with pytest.raises(InputError, match=r"no class 'b', number 1 .*\(its class 1 is 'x'\)"):
        matched_classes("abc", 3, "axc", 3)
    with pytest.raises(InputError, match="has 4 classes, the model 3, and the teacher's have no"):
        matched_classes("abc", 3, (), 4)
    with pytest.raises(InputError, match="num_classes is 4, but the data have 3 classes"):
        matched_classes("abc", 4, "cba", 3)


@pytest.mark.parametrize(
    "options, match",
    [
        ({"task": "distill"}, "needs config.distill.teacher"),
        ({"distill.teacher": "x"}, "config.distill.teacher is set, but config.task is 'classify'"),
        ({"distill.kind": "hard", "distill.temperature": 2.0}, "temperature is only for .* 'soft'"),
        ({"distill.feature_loss": "mse"}, "feature_loss is only for .* 'feature'"),
        ({"distill.alpha": 1.5}, "alpha is 1.5; it must be at most 1"),
        ({"distill.alpha": 0.0}, "alpha is 0.0"),
        ({"distill.kind": "sotf"}, "did you mean 'soft'"),
        ({"data.multi_label": True, "loss.name": "sigmoid"}, "kind 'soft' needs one class"),
    ],
    ids=str,
)
def test_options_that_do_not_fit_are_refused(options, match):
    config = default()
    if len(options) > 1 or not {"task", "distill.teacher"} & options.keys():
        config.task, config.distill.teacher = "distill", "x"
    config.update_from_flattened_dict(options)
    with pytest.raises(InputError, match=match):
        create_task(config)
