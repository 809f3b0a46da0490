import math

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.extend import core

from vit_jax.models import build_model, list_models, model_config
from vit_jax.models.flops import _taps, forward_flops, macs, parameters, train_flops
from vit_jax.tasks.masked_patches import MaskedPatches
from vit_jax.weights.record import parameter_shapes

# GMACs with a head of 1000 classes at 224 and 384 pixels.
GMACS = {
    "ViT-Ti/16": ("1.254", "4.682"),
    "ViT-S/16": ("4.599", "15.490"),
    "ViT-S/32": ("1.143", "3.443"),
    "ViT-B/8": ("78.148", "294.045"),
    "ViT-B/16": ("17.564", "55.484"),
    "ViT-B/32": ("4.409", "13.044"),
    "ViT-L/16": ("61.555", "191.066"),
    "ViT-L/32": ("15.378", "45.276"),
    "ViT-H/14": ("167.295", "503.481"),
    "ViT-g/14": ("267.031", "797.387"),
    "ViT-G/14": ("483.748", "1429.226"),
    "R+ViT-Ti/16": ("0.434", "1.327"),
    "R26+ViT-S/32": ("3.464", "10.264"),
    "R50+ViT-B/16": ("21.535", "67.156"),
    "R50+ViT-L/32": ("19.413", "57.136"),
}
# Table 6, pre-training on JFT-300M (303M images): epochs, the paper's exaFLOPs, and the same
# computed without training from the architecture alone.
EXAFLOPS = [
    ("ViT-B/32", 7, 55, "56.1"),
    ("ViT-B/16", 7, 224, "223.5"),
    ("ViT-L/32", 7, 196, "195.7"),
    ("ViT-L/16", 7, 783, "783.3"),
    ("ViT-L/16", 14, 1567, "1566.7"),
    ("ViT-H/14", 14, 4262, "4258.0"),
    ("BiT-R50x1", 7, 50, "50.2"),
    ("BiT-R50x2", 7, 199, "197.9"),
    ("BiT-R101x1", 7, 96, "95.1"),
    ("BiT-R152x1", 7, 141, "140.3"),
    ("BiT-R152x2", 7, 563, "558.3"),
    ("BiT-R152x2", 14, 1126, "1116.7"),
    ("BiT-R200x3", 14, 3306, "3288.5"),
    ("R50+ViT-B/32", 7, 106, "105.8"),
    ("R50+ViT-B/16", 7, 274, "272.5"),
    ("R50+ViT-L/32", 7, 246, "245.2"),
    ("R50+ViT-L/16", 7, 859, "832.5"),
    ("R50+ViT-L/16", 14, 1668, "1665.0"),
]
# B/32 is 2% off; for R50+L/16 the paper's 7 epochs are not half of its 14.
EXCEPTIONS = {("ViT-B/32", 7), ("R50+ViT-L/16", 7)}


@pytest.mark.parametrize("name", GMACS)
def test_macs_of_the_paper_variants(name):
    configs = [model_config(name, image_size=size) for size in (224, 384)]
    assert tuple(f"{macs(config) / 1e9:.3f}" for config in configs) == GMACS[name]


@pytest.mark.parametrize("name, epochs, exaflops, computed", EXAFLOPS)
def test_pre_training_cost_of_table_6(name, epochs, exaflops, computed):
    per_image = 6 * macs(model_config(name, num_classes=0), padding=False)
    total = per_image * epochs * 303e6 / 1e18
    assert f"{total:.1f}" == computed
    within = 0.01 if (name, epochs) not in EXCEPTIONS else 0.04
    assert total == pytest.approx(exaflops, rel=within)


@pytest.mark.parametrize("side", [1, 2, 5, 8, 13])
@pytest.mark.parametrize("kernel, stride", [(1, 1), (3, 1), (3, 2), (7, 2)])
@pytest.mark.parametrize("symmetric", [False, True])
def test_taps_on_padding_are_those_that_meet_no_pixel(side, kernel, stride, symmetric):
    padding = [(kernel // 2, kernel // 2)] if symmetric else "SAME"
    ones = jnp.ones((1, 1, side)), jnp.ones((1, 1, kernel))
    met = jax.lax.conv_general_dilated(*ones, (stride,), padding)
    assert _taps(side, kernel, stride, symmetric, padding=False) == int(met.sum())
    assert _taps(side, kernel, stride, symmetric, padding=True) == met.size * kernel


def products_run(jaxpr):
    """Multiply-accumulates of all products that run, scan bodies times their length."""
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            sizes = [eqn.invars[0].aval.shape[axis] for axis in contracted]
            total += eqn.outvars[0].aval.size * math.prod(sizes)
        if eqn.primitive.name == "conv_general_dilated":
            *taps, _ = eqn.invars[1].aval.shape  # kernel (height, width, input, output)
            total += eqn.outvars[0].aval.size * math.prod(taps)
        repeats = eqn.params["length"] if eqn.primitive.name == "scan" else 1
        for inner in core.jaxprs_in_params(eqn.params):
            total += repeats * products_run(inner)
    return total


@pytest.mark.parametrize(
    "name, options",
    [
        ("ViT-Ti/16", dict()),
        ("ViT-Ti/16", dict(num_classes=0)),
        ("ViT-Ti/16", dict(head="gap", registers=4)),
        ("ViT-Ti/16", dict(head="map", registers=3)),
        ("ViT-Ti/16", dict(head="token_gap", pre_logits=50, mlp="swiglu")),
        ("ViT-Ti/16", dict(pre_logits=-1, num_classes=0)),
        ("ViT-Ti/16", dict(distillation="head")),
        ("ViT-Ti/16", dict(patch_size=(7, 16), image_size=(48, 90), posemb_class_slot=False)),
        ("ViT-Ti/16", dict(posemb="relative", registers=2, patch_size=(8, 16))),
        ("Axial-ViT-Ti/16", dict(patch_size=(8, 16))),
        ("ViT-Ti/16", dict(unroll=-1, layer_scale=0.1, qk_norm=True)),
        ("ViT-Ti/16", dict(rotary="mixed", block="branched(count=3)")),
        ("ViT-Ti/16", dict(rotary="centred", block="parallel", mlp="swiglu")),
        ("ViT-Ti/16", dict(position_bias="table", head="gap", projection=24, num_classes=0)),
        ("ViT-Ti/16", dict(position_bias="mlp(hidden=24)", registers=1, patch_size=(8, 16))),
        ("ViT-Ti/16", dict(position_bias="mlp(shared=True)", projection=24)),
        (
            "ViT-Ti/16",
            dict(head="map", class_token=True, pool_prefix=True, map_heads=2, map_mlp_dim=40),
        ),
        ("R26+ViT-S/32", dict(image_size=(70, 97))),
        ("BiT-R50x1", dict(image_size=(70, 97))),
    ],
    ids=str,
)
def test_macs_equal_the_products_the_model_runs(name, options):
    options = dict(image_size=64, num_classes=10) | options
    config = model_config(name, **options)
    config = model_config(name, **options)
    graphdef, params = nnx.split(nnx.eval_shape(lambda: build_model(config, nnx.Rngs(0))))
    jaxpr = jax.make_jaxpr(lambda params, images: nnx.merge(graphdef, params)(images))(
        params, jnp.zeros((1, *config.image_size, 3))
    )
    assert macs(config) == products_run(jaxpr.jaxpr)


def test_macs_of_masked_patch_prediction_equal_the_products_it_runs():
    config = model_config("ViT-Ti/16", image_size=64, num_classes=0)
    task = MaskedPatches()
    graphdef, params = nnx.split(nnx.eval_shape(lambda: task.build_model(config, nnx.Rngs(0))))

    def predict(params, images):
        source = jnp.zeros((1, 16), jnp.int32)
        return nnx.merge(graphdef, params).predict_colors(images, source, source > 0)

    jaxpr = jax.make_jaxpr(predict)(params, jnp.zeros((1, 64, 64, 3)))
    assert task.macs(config) == products_run(jaxpr.jaxpr)
    assert task.train_flops(config) == 6 * task.macs(config)


def test_macs_of_an_axial_model():
    """Appendix D.5 for B/32 at 224: 49 patches whose queries meet the 7 keys of their line."""
    patches, width = 49, 768
    half = patches * (12 * width**2 + 2 * 7 * width)
    ends = patches * 32 * 32 * 3 * width + 1000 * width
    assert macs(model_config("Axial-ViT-B/32")) == 12 * 2 * half + ends


def test_flops_are_multiples_of_macs():
    config = model_config("ViT-S/16")
    assert forward_flops(config) == 2 * macs(config)
    assert train_flops(config) == 6 * macs(config)


def test_an_unknown_family_is_refused():
    with pytest.raises(TypeError, match="no MAC count for a dict"):
        macs({})


SMALL = dict(width=24, depth=3, mlp_dim=40, num_heads=3, patch_size=(4, 6), image_size=(12, 18))
OPTIONS = [
    dict(),
    dict(num_classes=0, pre_logits=-1),
    dict(pre_logits=17, num_classes=5),
    dict(head="gap"),
    dict(head="map"),
    dict(head="token_gap", registers=2, layer_scale=0.1, mlp="swiglu"),
    dict(registers=2, posemb_register_slots=True, qk_norm=True),
    dict(posemb_class_slot=False),
    dict(distillation="token"),
    dict(distillation="head"),
    *(dict(posemb=kind) for kind in ("learned2d", "relative", "sincos2d", "none")),
    dict(posemb="relative", posemb_where="layers"),
    dict(posemb_where="layers"),
    dict(posemb_where="layers_shared"),
    dict(attention_kind="axial", head="gap"),
    dict(resnet_stages=(), patch_size=2),
    dict(resnet_stages=(1, 2), patch_size=1, resnet_width=2),
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_parameters_are_those_of_the_model(options):
    config = model_config("ViT-S/16", **SMALL | options)
    assert parameters(config) == sum(map(math.prod, parameter_shapes(config).values()))


@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("preact", [False, True])
def test_parameters_of_the_models_by_name(name, preact):
    if preact and not name.startswith("BiT"):
        return
    config = model_config(name, preact=preact)
    assert parameters(config) == sum(map(math.prod, parameter_shapes(config).values()))
