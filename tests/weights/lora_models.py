"""Small models of transformers with adapters of peft, and runs that start from them."""

import numpy as np
import pytest

from vit_jax import config as configs
from vit_jax.trees import named_leaves

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.0")
peft = pytest.importorskip("peft")

RANK, ALPHA, CLASSES = 3, 7.0, 10
SIZES = dict(
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=40,
    image_size=8,
    patch_size=4,
    num_labels=CLASSES,
)
KINDS = {
    "vit": ("ViT", SIZES),
    "dinov2": ("Dinov2", SIZES | dict(mlp_ratio=2)),
    "registers": ("Dinov2WithRegisters", SIZES | dict(mlp_ratio=2, num_register_tokens=3)),
}
# Ours -> the modules of transformers 5.
MODULES = dict(
    query="attention.q_proj",
    key="attention.k_proj",
    value="attention.v_proj",
    out="attention.o_proj",
    fc1="mlp.fc1",
    fc2="mlp.fc2",
)


def randomised(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def base_model(kind, folder):
    """A model of transformers, and its folder."""
    name, sizes = KINDS[kind]
    config = getattr(transformers, f"{name}Config")(**sizes)
    model = randomised(getattr(transformers, f"{name}ForImageClassification")(config))
    model.save_pretrained(folder)
    return model


def with_peft(model, targets=("query", "value"), **options):
    """The model with an adapter, whose parameters are random as well."""
    lora = peft.LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=[MODULES[target] for target in targets],
        modules_to_save=["classifier"],
        **options,
    )
    adapted = peft.get_peft_model(model, lora)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return adapted.eval()


def pixels(count=6, seed=3):
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), np.uint8)


def to_torch(images):
    return torch.from_numpy((images / 255.0 * 2 - 1).astype(np.float32)).permute(0, 3, 1, 2)


def logits_of(model, images):
    with torch.no_grad():
        return model(to_torch(images)).logits.numpy()


def ours_of(model, images):
    return np.asarray(model((images / 255.0 * 2 - 1).astype(np.float32)))


def assert_close(actual, expected, tolerance=2e-5):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def run_config(folder, **options):
    config = configs.default()
    config.init_from = str(folder)
    config.init_skip = ()
    config.data.pp = "resize(8)|value_range(-1, 1)"
    config.batch_size = 8
    config.total.steps = 4
    config.lora.update(rank=RANK, alpha=ALPHA)
    config.optimizer.update(learning_rate=0.01, weight_decay=0.1, schedule="constant")
    config.log.update(every=1, tensorboard=False)
    config.update_from_flattened_dict(options)
    return config


def theirs(adapted):
    """What peft trains, under our names and in our layout, as gradients or values."""

    def collect(values):
        found = {}
        named = {
            name.removeprefix("base_model.model."): values(parameter).detach().numpy()
            for name, parameter in adapted.named_parameters()
            if parameter.requires_grad
        }
        for name in [name for name in named if name.startswith("classifier")]:
            ours = "head/kernel" if name.endswith("weight") else "head/bias"
            found[ours] = named.pop(name).T
        for target, module in MODULES.items():
            for letter in "AB":
                layers = [name for name in sorted(named) if f"{module}.lora_{letter}." in name]
                if layers:
                    group = "mlp" if target.startswith("fc") else "attention"
                    path = f"lora/blocks/{group}/{target}/{letter.lower()}/kernel"
                    found[path] = np.stack([named[name].T for name in layers])
        return found

    return collect


def flat(tree):
    return {path: np.asarray(leaf) for path, leaf in named_leaves(tree).items()}
