"""LoRA beside peft on a ViT of transformers, all parameters random: numbers, files and runs."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import vit_jax
from vit_jax import config as configs
from vit_jax.cli.main import main
from vit_jax.errors import InputError
from vit_jax.train import loop
from vit_jax.train.optim import trained_tree
from vit_jax.train.run import Dataset, prepare
from vit_jax.train.step import make_gradient
from vit_jax.trees import named_leaves
from vit_jax.weights import read, write

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


@pytest.mark.parametrize(
    "parallel",
    [dict(), dict(accumulate=2), dict(tensor=2, fsdp=2, data=2), dict(engine="pmap")],
    ids=str,
)
def test_outputs_gradients_and_adamw_steps_are_those_of_peft(parallel, tmp_path):
    targets = ("query", "value", "out", "fc1", "fc2")
    adapted = with_peft(base_model("vit", tmp_path), targets)
    weights = read(tmp_path)
    config = run_config(tmp_path, **{"lora.targets": targets})
    config.parallel.update(parallel, replicated_tolerance=1.0)
    config.model.update(remat="full")
    run = prepare(
        config, Dataset(100, CLASSES, (8, 8), (0.5,) * 3, (0.5,) * 3), start=weights.config
    )
    state = run.engine.init(run.create)
    expected = theirs(adapted)
    start = {**flat(weights.params), **expected(lambda parameter: parameter)}

    def place(path, leaf):
        assert leaf.size == start[path].size, path
        array = start[path].reshape(leaf.shape).astype(np.float32)
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: array[index])

    named = named_leaves(state.params)
    placed = {path: place(path, leaf) for path, leaf in named.items()}
    params = jax.tree.unflatten(jax.tree.structure(state.params), list(placed.values()))
    state = state.replace(params=params)

    decays, others = [], []
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            (others if name.endswith("bias") else decays).append(parameter)
    optimizer = torch.optim.AdamW(
        [dict(params=decays, weight_decay=0.1), dict(params=others, weight_decay=0.0)], lr=0.01
    )
    rng = np.random.default_rng(0)
    for number in range(3):
        batch = dict(image=pixels(8, number), label=rng.integers(0, CLASSES, 8).astype(np.int32))
        optimizer.zero_grad()
        out = adapted(to_torch(batch["image"])).logits
        loss = torch.nn.functional.cross_entropy(out, torch.from_numpy(batch["label"]).long())
        loss.backward()
        optimizer.step()
        if not number and not parallel:
            gradient = jax.jit(make_gradient(run.task))(state.params, batch, 0)[1]
            for path, grad in expected(lambda parameter: parameter.grad).items():
                found = flat(gradient)[path]
                assert_close(found.reshape(grad.shape), grad)
            frozen = flat(gradient).keys() - expected(lambda parameter: parameter).keys()
            assert not any(np.any(flat(gradient)[path]) for path in frozen)
        state, metrics = run.train_step(state, run.engine.put_batch(batch, 8))
        assert float(metrics["loss"]) == pytest.approx(loss.item(), rel=1e-5)
    after = expected(lambda parameter: parameter)
    for path, leaf in flat(state.params).items():
        if path in after:
            # Adam divides by the gradient's size: small gradients give large relative errors.
            np.testing.assert_allclose(leaf.reshape(after[path].shape), after[path], atol=1e-3)
        else:
            np.testing.assert_array_equal(leaf, start[path].reshape(leaf.shape))
    # Moments of A, B and the head, and nothing else.
    moments = [leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert sum(moments) == 2 * sum(array.size for array in after.values())


def test_a_fresh_adapter_is_drawn_as_pefts_and_changes_nothing(tmp_path):
    model = base_model("vit", tmp_path)
    run = prepare(
        run_config(tmp_path),
        Dataset(100, CLASSES, (8, 8), (0.5,) * 3, (0.5,) * 3),
        start=read(tmp_path).config,
    )
    fresh = flat(run.create().params)
    lora = peft.get_peft_model(model, peft.LoraConfig(r=RANK, target_modules=["q_proj", "v_proj"]))
    drawn = torch.cat([p.ravel() for name, p in lora.named_parameters() if "lora_A" in name])
    bound = SIZES["hidden_size"] ** -0.5
    for values in (drawn.detach().numpy(), np.concatenate([
        fresh[f"lora/blocks/attention/{name}/a/kernel"].ravel() for name in ("query", "value")
    ])):  # fmt: skip
        assert 0.9 * bound < np.abs(values).max() <= bound
        assert values.std() == pytest.approx(bound / 3**0.5, rel=0.1)
    assert not np.any(fresh["lora/blocks/attention/query/b/kernel"])
    trained, _ = lora.get_nb_trainable_parameters()
    assert trained == sum(leaf.size for path, leaf in fresh.items() if path.startswith("lora/"))
    usable = flat(run.usable(run.create().params))
    for path, leaf in usable.items():
        np.testing.assert_array_equal(leaf, fresh[path])


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folders of a base model and of a LoRA run that starts from it, and its summary."""
    folder = tmp_path_factory.mktemp("lora")
    base_model("vit", folder / "base")
    config = run_config(folder / "base")
    with config.unlocked():
        config.evals.test = configs.evaluation(split="train[:64]", batch_size=64)
    summary = loop.train(config, str(folder / "run"))
    return folder / "base", folder / "run", summary, config


def test_a_runs_adapter_is_read_by_peft_and_by_itself_merged(done, tmp_path, capsys):
    base, workdir, summary, _ = done
    model, info = vit_jax.load(workdir)
    images = pixels()
    merged = ours_of(model, images)
    assert not np.allclose(merged, ours_of(vit_jax.load(base)[0], images), atol=1e-2)
    assert main(["convert", str(workdir), str(tmp_path / "adapter"), "--format=peft"]) == 0
    theirs = transformers.ViTForImageClassification.from_pretrained(base)
    adapted = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
    assert_close(merged, logits_of(adapted, images))
    again = vit_jax.load(base, adapter=tmp_path / "adapter")[0]
    assert_close(ours_of(again, images), merged)
    # Merged into the files of transformers.
    assert main(["convert", str(workdir), str(tmp_path / "merged")]) == 0
    whole = transformers.ViTForImageClassification.from_pretrained(tmp_path / "merged").eval()
    assert_close(merged, logits_of(whole, images))
    # The summary counts as peft does.
    trainable, all_params = with_peft(
        transformers.ViTForImageClassification.from_pretrained(base)
    ).get_nb_trainable_parameters()
    # peft keeps the frozen head beside the trained one.
    head = CLASSES * (SIZES["hidden_size"] + 1)
    assert (summary["trained_params"], summary["params"]) == (trainable, all_params - head)
    assert summary["peak_memory_bytes"] > 0
    capsys.readouterr()
    assert main(["evaluate", "--checkpoint", str(workdir), "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert evaluated["loss"] == pytest.approx(summary["metrics"]["eval/test/loss"], rel=1e-4)


def test_names_of_transformers_4(done, tmp_path):
    base, workdir, _, _ = done
    main(["convert", str(workdir), str(tmp_path / "old"), "--format=peft_transformers4"])
    names = load_file(tmp_path / "old" / "adapter_model.safetensors")
    stem = "base_model.model.vit.encoder.layer.1.attention.attention.value"
    assert {f"{stem}.lora_A.weight", f"{stem}.lora_B.weight"} <= names.keys()
    found = vit_jax.load(base, adapter=tmp_path / "old")[0]
    assert_close(ours_of(found, pixels()), ours_of(vit_jax.load(workdir)[0], pixels()))


@pytest.mark.parametrize("engine", ["pjit", "pmap"])
def test_a_run_that_goes_on_is_that_without_interruption(engine, done, tmp_path):
    base, workdir, _, config = done
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.total.steps = 2
        config.parallel.engine = engine
        loop.train(config, str(tmp_path / "run"))
        config.total.steps = 4
        loop.train(config, str(tmp_path / "run"))
    once, twice = (flat(read_params(path)) for path in (workdir, tmp_path / "run"))
    for path, leaf in once.items():
        np.testing.assert_allclose(
            twice[path], leaf, rtol=0, atol=1e-6 if engine == "pjit" else 1e-4
        )


def read_params(workdir):
    from vit_jax.checkpoint.stored import latest_checkpoint, read_params

    return read_params(latest_checkpoint(workdir))


def test_a_run_starts_from_a_lora_run_and_from_an_adapter(done, tmp_path):
    base, workdir, _, _ = done
    main(["convert", str(workdir), str(tmp_path / "adapter"), "--format=peft"])
    options = {"total.steps": 1, "optimizer.learning_rate": 0.0, "lora.rank": 0}
    loop.train(run_config(workdir, **options), str(tmp_path / "a"))
    adapter = {"init_adapter": str(tmp_path / "adapter")}
    loop.train(run_config(base, **options, **adapter), str(tmp_path / "b"))
    expected = ours_of(vit_jax.load(workdir)[0], pixels())
    for name in "ab":
        assert_close(ours_of(vit_jax.load(tmp_path / name)[0], pixels()), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("targets", [("query", "value"), tuple(MODULES)], ids=len)
def test_files_that_peft_writes(kind, targets, tmp_path):
    adapted = with_peft(base_model(kind, tmp_path / "base"), targets, use_rslora=len(targets) > 2)
    adapted.save_pretrained(tmp_path / "adapter")
    model, info = vit_jax.load(tmp_path / "base", adapter=tmp_path / "adapter")
    assert_close(ours_of(model, pixels()), logits_of(adapted, pixels()))
    assert any("LoRA updates merged" in line for line in info.report)


def test_an_adapter_with_a_head_for_a_backbone_without(tmp_path):
    adapted = with_peft(base_model("dinov2", tmp_path / "whole"))
    adapted.save_pretrained(tmp_path / "adapter")
    backbone = transformers.Dinov2Model.from_pretrained(tmp_path / "whole")
    backbone.save_pretrained(tmp_path / "base")
    model, _ = vit_jax.load(tmp_path / "base", adapter=tmp_path / "adapter")
    assert_close(ours_of(model, pixels()), logits_of(adapted, pixels()))


def change_config(folder, **options):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | options))


def change_tensors(folder, change):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


STEM = "base_model.model.vit.layers.1.attention.q_proj"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda f: change_config(f, use_dora=True), "use_dora is True"),
        (lambda f: change_config(f, peft_type="IA3"), "peft_type is 'IA3'"),
        (lambda f: change_config(f, bias="all"), "bias is 'all'"),
        (lambda f: change_config(f, init_lora_weights="pissa"), "init_lora_weights is 'pissa'"),
        (lambda f: change_config(f, alpha_pattern=dict(q=3)), "alpha_pattern"),
        (lambda f: (f / "adapter_config.json").unlink(), "has no adapter_config.json"),
        (lambda f: (f / "adapter_model.safetensors").unlink(), "has no adapter_model"),
        (
            lambda f: change_tensors(f, lambda t: t.pop(f"{STEM}.lora_A.weight")),
            "layers.1.attention.q_proj is no pair",
        ),
        (
            lambda f: change_tensors(
                f,
                lambda t: [
                    t.__setitem__(name.replace("layers.1", "layers.7"), t.pop(name))
                    for name in list(t)
                ],
            ),
            "has no place for vit.layers.7.attention.q_proj",
        ),
        (
            lambda f: change_tensors(
                f, lambda t: t.update({f"{STEM}.lora_B.weight": np.ones((5, RANK), np.float32)})
            ),
            "has shape \\(5, 24\\)",
        ),
        (
            lambda f: change_tensors(
                f,
                lambda t: t.update(
                    {"base_model.model.classifier.weight": np.ones((10, 7), np.float32)}
                ),
            ),
            "classifier.weight has shape \\(10, 7\\)",
        ),
    ],
)
def test_adapters_that_are_refused(change, message, done, tmp_path):
    base, workdir, _, _ = done
    main(["convert", str(workdir), str(tmp_path / "adapter"), "--format=peft"])
    change(tmp_path / "adapter")
    with pytest.raises(InputError, match=message):
        vit_jax.load(base, adapter=tmp_path / "adapter")
    with pytest.raises(InputError, match=message):
        config = run_config(base, init_adapter=str(tmp_path / "adapter"))
        loop.train(config, str(tmp_path / "run"))
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"lora.targets": ("quary",)}, "did you mean 'query'"),
        ({"lora.targets": ()}, "lora.targets is empty"),
        ({"lora.targets": ("query", "query")}, "names a projection twice"),
        ({"lora.rank": -1}, "lora.rank is -1"),
        ({"lora.alpha": 0.0}, "lora.alpha is 0"),
        ({"model.name": "BiT-R50x1", "init_from": ""}, "no 'query' in Transformer blocks"),
        ({"task": "masked", "init_from": ""}, "the model of this task has no head"),
        ({"init_from": "", "init_adapter": "somewhere"}, "init_adapter needs the weights"),
    ],
    ids=str,
)
def test_options_that_are_refused(options, message, done, tmp_path):
    config = run_config(done[0], **options)
    if not config.init_from:
        if config.model.name is None:
            config.model.name = "ViT-Ti/4"
        config.data.pp = "resize(32)|value_range(-1, 1)"
    with pytest.raises(InputError, match=message):
        loop.train(config, str(tmp_path / "run"))
    assert not (tmp_path / "run" / "config.json").exists()


def test_weights_without_adapter_have_none_to_write(done, tmp_path):
    with pytest.raises(InputError, match="hold no adapter"):
        write(read(done[0]), tmp_path / "x", format="peft")


def test_only_adapter_and_head_are_trained(done):
    run = prepare(
        done[3],
        Dataset(100, CLASSES, (8, 8), (0.5,) * 3, (0.5,) * 3),
        start=read(done[0]).config,
    )
    trained = named_leaves(trained_tree(run.config.optimizer, run.abstract.params))
    assert {path for path, mask in trained.items() if mask} == {
        "head/bias",
        "head/kernel",
        *(
            f"lora/blocks/attention/{name}/{letter}/kernel"
            for name in ("query", "value")
            for letter in "ab"
        ),
    }
