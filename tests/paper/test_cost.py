"""What missing runs cost, beside the paper's own figures and closed forms."""

import json

import pytest

from vit_jax.cli.main import main
from vit_jax.paper import cost
from vit_jax.paper.paper_scale import pretraining
from vit_jax.paper.recipes import recipes
from vit_jax.paper.tables import table

CELL = ("ImageNet-21k: CIFAR-10", "ViT-B/16")


@pytest.mark.parametrize("row", [row for row in table(6).rows if "R200x3" not in row])
def test_pretraining_costs_what_table_6_says(row):
    model, epochs = row.removesuffix(" epochs").split(", ")
    found = cost.run_flops(pretraining("JFT", model, int(epochs)))
    # The paper does not say what it counts.
    assert found / 1e18 == pytest.approx(table(6).cells[row, "exaFLOPs"].value, rel=0.15)


def test_a_cell_needs_its_pretraining_its_choices_and_its_seeds(tmp_path):
    recipe = recipes(5)[CELL]
    runs = cost.missing_runs(5, CELL, tmp_path, "paper")
    assert len(runs) == 1 + len(recipe.choices) + len(recipe.runs)
    start = recipe.runs[0].start
    assert start in runs
    # 10,000 steps of 512 images of 384 pixels: B/16 has 55.5 GMACs there (timm's table: 55.5).
    assert cost.run_flops(recipe.runs[0]) == pytest.approx(10_000 * 512 * 6 * 55.5e9, rel=0.01)
    on = cost.find_slice("v3:8x8", 0.5)
    found = cost.cost(runs, on)
    assert found["flops"] == sum(map(cost.run_flops, runs))
    assert found["chip_hours"] == pytest.approx(found["flops"] / (123e12 * 0.5) / 3600)
    assert found["hours"] == pytest.approx(found["chip_hours"] / 64)
    assert found["data"] == ["tfds:cifar10", "folder:imagenet21k"]


def test_finished_runs_cost_nothing(tmp_path):
    start = recipes(5)[CELL].runs[0].start
    (tmp_path / start.workdir).mkdir(parents=True)
    (tmp_path / start.workdir / "summary.json").write_text(json.dumps(dict(metrics={})))
    runs = cost.missing_runs(5, CELL, tmp_path, "paper")
    assert start not in runs and len(runs) == 7
    # Another cell of the same model needs no pre-training either.
    other = cost.missing_runs(5, ("ImageNet-21k: CIFAR-100", "ViT-B/16"), tmp_path, "paper")
    assert len(other) == 7


def test_the_table_counts_shared_runs_once(tmp_path, capfd):
    assert main(["tables", "5", f"--workdir={tmp_path}", "--json", "--topology=v5e:16x16"]) == 0
    document = json.loads(capfd.readouterr().out)
    empty = [cell for cell in document["cells"] if cell["command"]]
    assert all(cell["cost"]["runs"] > 0 for cell in empty)
    assert document["cost"]["pretraining_runs"] == 13  # five models, three sets, less two
    assert document["cost"]["flops"] < sum(cell["cost"]["flops"] for cell in empty)
    assert main(["tables", "5", f"--workdir={tmp_path}", "--commands"]) == 0
    text = capfd.readouterr().out
    assert text.count("vit_jax tables 5 --run") == len(empty)
    assert "hours on v5e:16x16 (MFU 40%); reads tfds:cifar10, folder:imagenet21k" in text
    assert main(["tables", "8", "--scale=small", f"--workdir={tmp_path}"]) == 0
    # 60,000 images of 1.83 million multiply-accumulates, forward and backward, three seeds.
    assert "3 runs: 2 TFLOPs" in capfd.readouterr().out


def test_gpus_are_counted_one_by_one():
    on = cost.find_slice("h100:8x4", 0.5)
    assert (on.chips, on.chip.bf16_flops) == (32, 989e12)
    assert on.hours(989e12 * 16 * 3600) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--topology=v5e"], "v5e"),
        (["--topology=v9:2x2"], "unknown topology 'v9'"),
        (["--topology=v5e:2x0"], "v5e:2x0"),
        (["--mfu=1.5"], "1.5 is out of range; give a number above 0, at most 1"),
    ],
)
def test_wrong_values(arguments, message, tmp_path, capfd):
    assert main(["tables", "5", f"--workdir={tmp_path}", *arguments]) == 2
    error = capfd.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1
