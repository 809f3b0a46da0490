"""DINOv2's linear evaluation, beside its protocol in torch: features, heads, table and choice."""

import itertools
import json

import numpy as np
import pytest

import vit_jax
from vit_jax import config as configs
from vit_jax import data
from vit_jax.cli.main import main
from vit_jax.errors import InputError
from vit_jax.evaluate.frozen import sweep
from vit_jax.evaluate.stored import open_stored
from vit_jax.train import loop

torch = pytest.importorskip("torch")

RATES, BLOCKS = (1e-3, 0.1, 0.4), (1, 2)
KINDS = [sweep.Head(*each) for each in itertools.product(BLOCKS, (False, True))]


def seen(features, head, width):
    """What a head of dinov2's `create_linear_input` sees of [class tokens ..., mean]."""
    count = features.shape[1] // width - 1
    tokens = [features[:, i * width : (i + 1) * width] for i in range(count)]
    mean = [features[:, count * width :]] if head.mean else []
    return torch.from_numpy(np.concatenate([*tokens[-head.blocks :], *mean], axis=1))


class Theirs:
    """Linear layers, one torch.optim.SGD over all, a cosine down to 0, the sum of their losses."""

    def __init__(self, start, rates, steps, width):
        self.width, self.layers, groups = width, {}, []
        for head, own in start.items():
            for i, rate in enumerate(rates):
                layer = torch.nn.Linear(*own["kernel"].shape[1:])
                with torch.no_grad():
                    layer.weight.copy_(torch.tensor(np.asarray(own["kernel"][i]).T))
                    layer.bias.zero_()
                self.layers[head, i] = layer
                groups.append(dict(params=layer.parameters(), lr=rate))
        self.optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=0)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, steps)

    def train(self, batches):
        for features, labels in batches:
            loss = sum(
                torch.nn.functional.cross_entropy(
                    layer(seen(features, head, self.width)), torch.from_numpy(labels).long()
                )
                for (head, _), layer in self.layers.items()
            )
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.scheduler.step()

    def top1(self, features, labels):
        """In the order of their classifiers: blocks, mean, learning rate."""
        with torch.no_grad():
            return [
                float((layer(seen(features, head, self.width)).argmax(1).numpy() == labels).mean())
                for (head, _), layer in self.layers.items()
            ]


def test_all_heads_train_as_torchs_sgd():
    width, classes, steps, rng = 5, 3, 12, np.random.default_rng(0)
    batches = [
        (rng.normal(size=(16, 3 * width)).astype(np.float32), rng.integers(0, classes, 16))
        for _ in range(steps)
    ]
    trainer = sweep.Trainer(tuple(KINDS), (0.01, 0.5), steps, width, classes)
    start = {
        head: {k: np.asarray(v) for k, v in own.items()} for head, own in trainer.init(1).items()
    }
    assert np.std(start[KINDS[-1]]["kernel"]) == pytest.approx(0.01, rel=0.2)
    theirs = Theirs(start, (0.01, 0.5), steps, width)
    theirs.train(batches)
    found = trainer(trainer.init(1), iter(batches))
    for (head, i), layer in theirs.layers.items():
        kernel = layer.weight.detach().numpy().T
        np.testing.assert_allclose(found[head]["kernel"][i], kernel, rtol=0, atol=2e-6)
        np.testing.assert_allclose(found[head]["bias"][i], layer.bias.detach(), rtol=0, atol=2e-6)


def test_features_are_those_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers", minversion="5.0")
    registers, name = 2, "Dinov2WithRegisters"
    sizes = dict(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, mlp_ratio=2)
    more = dict(num_register_tokens=registers)
    config = getattr(transformers, f"{name}Config")(**sizes, image_size=8, patch_size=4, **more)
    theirs = getattr(transformers, f"{name}Model")(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=0.3)
    theirs.save_pretrained(tmp_path)
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    with torch.no_grad():
        states = theirs(pixels, output_hidden_states=True).hidden_states[-2:]
        tokens = [theirs.layernorm(state).numpy() for state in states]
    expected = [*(x[:, 0] for x in tokens), tokens[-1][:, 1 + registers :].mean(1)]
    found = sweep._features(2)(vit_jax.load(tmp_path)[0], images)
    np.testing.assert_allclose(found, np.concatenate(expected, 1), rtol=0, atol=1e-5)


OPTIONS = dict(
    train="train[:70%]", test="train[70%:]", steps=100, blocks=BLOCKS, learning_rates=RATES
)
PP = "resize(16)|value_range(-1, 1)"
WIDTH = 32


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A ViT of transformers with random parameters, whose features tell digits apart."""
    transformers = pytest.importorskip("transformers", minversion="5.0")
    sizes = dict(hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2)
    config = transformers.ViTConfig(**sizes, intermediate_size=64, image_size=16, patch_size=4)
    model = transformers.ViTModel(config, add_pooling_layer=False)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
        model.layernorm.weight.fill_(1.0)
    folder = tmp_path_factory.mktemp("backbone")
    model.save_pretrained(folder)
    return folder


def probe(folder, *more, train="train[:70%]", steps=OPTIONS["steps"]):
    return main(
        [
            *("probe", f"--checkpoint={folder}", "--method=sweep", "--source=digits"),
            *(f"--train={train}", "--test=train[70%:]", f"--steps={steps}", "--blocks=1,2"),
            *(f"--train-pp={PP}", f"--pp={PP}", "--batch-size=64", *more),
        ]
    )


def test_the_table_and_the_choice_are_theirs_on_digits(backbone, capfd):
    rates = ",".join(map(str, RATES))
    assert probe(backbone, f"--learning-rates={rates}", "--json") == 0
    swept = json.loads(capfd.readouterr().out)
    model = vit_jax.load(backbone)[0]
    train, test = (data.open_source("digits", split=OPTIONS[name]) for name in ("train", "test"))

    def features(source):
        batch = next(data.eval_batches(source, data.parse(PP), batch_size=source.size))
        images = np.float32(batch["image"]) / 255 * 2 - 1
        return np.array(sweep._features(2)(model, images)), batch["label"]

    whole, labels = features(train)
    orders = [
        data.planned_examples(train, batch_size=64, seed=sweep.SEED, step=step)
        for step in range(OPTIONS["steps"])
    ]
    rates = tuple(rate * 64 / 256 for rate in RATES)
    trainer = sweep.Trainer(tuple(KINDS), rates, len(orders), WIDTH, 10)
    theirs = Theirs(trainer.init(sweep.SEED), rates, len(orders), WIDTH)
    theirs.train((whole[order], labels[order]) for order in orders)
    expected = theirs.top1(*features(test))
    rows = swept["heads"]
    found = [row["top1"] for row in rows]
    # An image between two classes may fall to either.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1.5 / test.size)
    assert max(found) > 0.2 and max(found) - min(found) > 0.1
    assert [(row["blocks"], row["mean_patches"]) for row in rows[:: len(RATES)]] == [
        (head.blocks, head.mean) for head in KINDS
    ]
    assert swept["best"] == rows[int(np.argmax(expected))]
    assert swept["top1"] == swept["best"]["top1"]
    assert (swept["val"], swept["examples"]) == (swept["test"], test.size)


def test_the_choice_on_another_split(backbone, capfd):
    more = ("--val=train[60%:70%]", "--learning-rates=1e-5,1")
    assert probe(backbone, *more, train="train[:60%]", steps=30) == 0
    out = capfd.readouterr().out.splitlines()
    assert out[0] == "top-1 on train[60%:70%]" and len(out) == 5
    titles = ["1 block", "1 block + mean", "2 blocks", "2 blocks + mean"]
    assert all(title in out[1] for title in titles)
    cells = [float(cell.rstrip("%")) for line in out[2:4] for cell in line.split()[1:]]
    assert len(cells) == 8 and max(cells[4:]) == max(cells) > 12
    assert out[-1].startswith("sweep: top-1") and out[-1].endswith("at learning rate 1")


def test_as_an_evaluation_of_a_run(backbone, tmp_path):
    """A run of one step without learning, under pmap, measures what the command does."""
    config = configs.default()
    config.init_from = str(backbone)
    config.data.update(pp=PP, split="train[:70%]")
    config.parallel.engine = "pmap"
    config.batch_size = 64
    config.total.steps = 1
    config.optimizer.learning_rate = 0.0
    config.log.update(every=1, tensorboard=False)
    options = OPTIONS | dict(pp=PP, train_pp=PP, steps=30)
    with config.unlocked():
        config.evals.linear = configs.evaluation("sweep", **options)
    summary = loop.train(config, str(tmp_path))
    stored = open_stored(str(backbone), batch_size=64)
    result = stored.run(sweep.LinearSweep(source="digits", **options))
    assert result["top1"] > 0.12
    found = summary["metrics"]["eval/linear/top1"]
    assert found == pytest.approx(result["top1"], abs=1.5 / result["examples"])


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(blocks=(3,)), "the model has 2 blocks, so give numbers from 1 to 2"),
        (dict(blocks=()), "blocks is \\(\\)"),
        (dict(learning_rates=(0.0,)), "give positive numbers"),
        (dict(steps=0), "steps is 0"),
        (dict(train="train[:3%]"), "fewer than a batch of 64"),
        (dict(train_pp="resize(8)|value_range(-1, 1)"), "yields images of \\(8, 8\\)"),
        (dict(train_pp="resize(16)|value_range(0, 1)"), "normalises pixels differently"),
    ],
    ids=str,
)
def test_what_is_refused(options, message, backbone):
    stored = open_stored(str(backbone), batch_size=64)
    with pytest.raises(InputError, match=message):
        stored.run(sweep.LinearSweep(source="digits", **(OPTIONS | options)))


def test_arguments_of_the_sweep_are_refused_elsewhere(backbone, capfd):
    assert main(["probe", f"--checkpoint={backbone}", "--steps=3"]) == 2
    assert "--steps needs --method=sweep" in capfd.readouterr().err


def test_the_learning_rates_are_dinov2s():
    rates = [1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1]
    assert list(sweep.LEARNING_RATES) == rates


def test_diverged_heads_are_never_right():
    trainer = sweep.Trainer((KINDS[0],), (1.0,), 1, 2, 3)
    heads = {KINDS[0]: dict(kernel=np.full((1, 2, 3), np.nan), bias=np.zeros((1, 3)))}
    assert not trainer.correct(heads, np.ones((4, 4), np.float32), np.zeros(4)).any()
