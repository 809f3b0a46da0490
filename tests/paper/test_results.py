"""Cells filled from finished runs, and what is said of those that are not."""

import json
import statistics
import subprocess

import pytest

from vit_jax import InputError
from vit_jax.cli.main import main
from vit_jax.cli.progress import Watching
from vit_jax.paper import queue, render, results, runner, small_scale
from vit_jax.paper.paper_scale import learning_rates
from vit_jax.paper.recipes import recipes
from vit_jax.paper.runs import Recipe, Run

CELL = ("ImageNet-21k: CIFAR-10", "ViT-B/16")


def finish(run, folder, **metrics):
    """The files that a finished run leaves."""
    workdir = folder / run.workdir
    workdir.mkdir(parents=True)
    config = results.load_run_config(run, folder)
    (workdir / "config.json").write_text(json.dumps(config.to_dict(), default=str))
    (workdir / "summary.json").write_text(json.dumps(dict(metrics=metrics)))


def next_runs(number, keys, folder):
    """What can start now for these cells, at the paper's scale."""
    found = [recipe for key in keys for recipe in results.recipes_behind(number, key)]
    return queue.next_runs(found, folder)


def test_every_cell_of_the_paper_that_can_be_run_has_runs_that_load(tmp_path):
    configs = set()
    for number in (2, 5, 6, 7, 8, 9):
        for recipe in recipes(number).values():
            for run in (*recipe.runs, *(run for _, run in recipe.choices)):
                configs.add((run.config, run.overrides))
                assert run.start is not None or number == 8
    # One seed of each is enough to know that its options exist.
    for config, overrides in {c: (c, o) for c, o in configs}.values():
        results.load_run_config(Run("x", config, overrides), tmp_path)
    assert len(recipes(5)) == 84 - 6  # all but H/14 on ImageNet-21k


def test_learning_rates_of_table_4():
    assert learning_rates("imagenet") == (".003", ".01", ".03")
    assert learning_rates("imagenet512", "BiT-R50x1") == (".003", ".01", ".03", ".06")
    assert learning_rates("pets") == (".001", ".003", ".01", ".03")


def test_the_best_learning_rate_of_the_dev_split_is_run_with_three_seeds(tmp_path):
    recipe = recipes(5)[CELL]
    assert results.measured(recipe, tmp_path).missing == tuple(run for _, run in recipe.choices)
    for (_, run), top1 in zip(recipe.choices, (0.7, 0.9, 0.8, 0.6)):
        finish(run, tmp_path, **{"eval/dev/top1": top1})
    ours = results.measured(recipe, tmp_path)
    assert ours.value is None
    assert [run.overrides[-1] for run in ours.missing] == [
        "--config.optimizer.learning_rate=.003"
    ] * 3
    found = (0.98, 0.985, 0.992)
    for run, top1 in zip(ours.missing, found):
        finish(run, tmp_path, **{"eval/test/top1": top1})
    ours = results.measured(recipe, tmp_path)
    assert ours.value == pytest.approx(100 * statistics.mean(found))
    assert ours.std == pytest.approx(100 * statistics.stdev(found))
    assert (ours.runs, ours.missing) == (3, ())
    cell = next(
        cell
        for cell in results.document(5, tmp_path)["cells"]
        if (cell["row"], cell["column"]) == CELL
    )
    assert (cell["paper"], cell["ours"], cell["command"]) == (98.95, ours.value, None)


def test_real_labels_are_evaluated_after_the_runs_on_imagenet(tmp_path, monkeypatch):
    recipe = recipes(2)["ImageNet ReaL", "L/16 JFT"]
    for _, run in recipe.choices:
        finish(run, tmp_path, **{"eval/dev/top1": 0.5})
    for run in recipe.final(recipe.choices[0][0]):
        finish(run.start, tmp_path, **{"eval/test/top1": 0.8})
    missing = results.measured(recipe, tmp_path).missing
    assert len(missing) == 3
    assert "--use-ema --protocol=real" in missing[0].command(tmp_path)
    asked, watch = [], Watching()

    def evaluate(path, **options):
        asked.append((path, options["use_ema"], options["watch"]))
        return dict(top1=0.9)

    monkeypatch.setattr(runner, "evaluate_protocol", evaluate)
    for evaluation in missing:
        runner.do_here(evaluation, tmp_path, watch)
    assert asked[0] == (f"{tmp_path}/{missing[0].start.workdir}", True, watch)
    assert results.measured(recipe, tmp_path).value == pytest.approx(90)


def test_pre_training_comes_first_and_once(tmp_path):
    keys = runner.select(5, "ImageNet: CIFAR-10", None)
    runs = next_runs(5, keys, tmp_path)
    assert [run.workdir for run in runs] == [
        f"pretrain/ImageNet/ViT-{size}" for size in ("B_16", "B_32", "L_16", "L_32")
    ]
    finish(runs[0], tmp_path)
    following = next_runs(5, keys, tmp_path)
    assert len(following) == 4 + 3
    assert f"--config.init_from={tmp_path}/pretrain/ImageNet/ViT-B_16" in following[0].command(
        tmp_path
    )


def test_a_run_of_another_config_is_named_and_stays(tmp_path):
    run = recipes(8, "small")["None", "Stem"].runs[0]
    finish(run, tmp_path, **{"eval/test/top1": 0.5})
    file = tmp_path / run.workdir / "config.json"
    for option, other in (("batch_size", 77), ("total", {"steps": 3}), ("evals", {})):
        config = results.load_run_config(run, tmp_path).to_dict()
        file.write_text(json.dumps(dict(config, **{option: other}), default=str))
        before = file.read_bytes()
        with pytest.raises(InputError, match=run.workdir):
            results.document(8, tmp_path, "small")
        assert file.read_bytes() == before


def test_markdown_shows_both_and_what_fills_the_rest(tmp_path):
    text = render.markdown(results.document(8, tmp_path, "small"))
    assert "| 2-D | .64001 : - | .64046 : - | .64022 : - |" in text
    assert "vit_jax tables 8 --run --row=None --column=Stem" in text


def test_plots_have_the_papers_points(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    del matplotlib
    for number in (5, 6):
        render.plot(results.document(number, tmp_path), tmp_path / f"{number}.png")
        assert (tmp_path / f"{number}.png").read_bytes().startswith(b"\x89PNG")
    series = render._series(results.document(5, tmp_path), "paper")
    assert sorted(series["ViT-L/16"]) == [(1.28e6, 76.53), (14.2e6, 85.15), (303e6, 87.12)]
    with pytest.raises(InputError, match="no plot"):
        render.plot(results.document(8, tmp_path), tmp_path / "8.png")


def run_script(script, folder, task, vit_jax):
    """Status and output of a task of an array, with stand-ins for Slurm's commands."""
    programs = dict(srun='shift; exec "$@"', vit_jax=vit_jax, scontrol='echo "scontrol $@"')
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    variables = dict(SLURM_ARRAY_TASK_ID=str(task), SLURM_JOB_ID="77")
    done = subprocess.run(
        ["bash", "-c", script],
        env=dict(variables, PATH=f"{folder}:/usr/bin:/bin"),
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout


def test_the_array_for_slurm_runs_the_commands(tmp_path):
    keys = runner.select(5, "ImageNet: CIFAR-10", None)
    script = runner.slurm_script(5, keys, tmp_path, "paper")
    assert "#SBATCH --array=0-3" in script
    wanted = next_runs(5, keys, tmp_path)[2].command(tmp_path).split()[1:]
    status, output = run_script(script, tmp_path, 2, 'echo "$@"')
    assert status == 0 and output.split() == wanted
    # One that was stopped in time goes back into the queue.
    status, output = run_script(script, tmp_path, 2, "exit 75")
    assert status == 75 and output == "scontrol requeue 77\n"


def test_the_array_for_slurm_evaluates_too(tmp_path):
    recipe = recipes(2)["ImageNet ReaL", "L/16 JFT"]
    for _, run in recipe.choices:
        finish(run, tmp_path, **{"eval/dev/top1": 0.5})
    for run in recipe.final(recipe.choices[0][0]):
        finish(run.start, tmp_path, **{"eval/test/top1": 0.8})
    keys = [("ImageNet ReaL", "L/16 JFT")]
    evaluation = next_runs(2, keys, tmp_path)[1]
    script = runner.slurm_script(2, keys, tmp_path, "paper")
    status, _ = run_script(script, tmp_path, 1, """echo '{"top1": 0.7}'""")
    assert status == 0
    assert results.summary(evaluation, tmp_path) == dict(top1=0.7)


def test_a_choice_that_diverged_is_the_last_one(tmp_path):
    recipe = recipes(5)[CELL]
    for (_, run), top1 in zip(recipe.choices, (0.7, None, 0.8, 0.6)):
        if top1:
            finish(run, tmp_path, **{"eval/dev/top1": top1})
        else:
            (tmp_path / run.workdir).mkdir(parents=True)
            (tmp_path / run.workdir / "non_finite.json").write_text("{}")
    missing = results.measured(recipe, tmp_path).missing
    assert [run.overrides[-1] for run in missing] == [recipe.choices[2][0]] * 3


def test_the_runs_behind_a_mean_are_those_of_its_cells(tmp_path):
    def runs(number, row, column):
        keys = runner.select(number, row, column)
        return [run.workdir for run in next_runs(number, keys, tmp_path)]

    column = "L/16 JFT"
    finish(recipes(9)["Caltech101", column].runs[0].start, tmp_path)
    wanted = runs(9, None, column)
    assert len(wanted) == 19 * 3
    assert runs(9, "Mean", column) == runs(2, "VTAB (19 tasks)", column) == wanted
    assert set(wanted) < set(runs(2, None, column))
    assert runs(7, "Average", "R50x1 Adam") == ["pretrain/JFT/BiT-R50x1"]
    commands = {
        (cell["row"], cell["column"]): cell["command"]
        for cell in results.document(2, tmp_path)["cells"]
    }
    assert commands["VTAB (19 tasks)", column] == (
        f"vit_jax tables 2 --run '--row=VTAB (19 tasks)' '--column={column}' --workdir={tmp_path}"
    )


def test_a_folder_that_was_moved_is_still_known(tmp_path):
    recipe = recipes(5)[CELL]
    _, run = recipe.choices[0]
    finish(run, tmp_path / "before", **{"eval/dev/top1": 0.5})
    (tmp_path / "before").rename(tmp_path / "after")
    assert results.summary(run, tmp_path / "after") == {"eval/dev/top1": 0.5}


@pytest.mark.slow
def test_missing_runs_are_done_once_and_in_order(tmp_path, monkeypatch, capfd):
    """Real runs, with recipes that take seconds."""
    tiny = (
        "--config.model.width=32",
        "--config.model.depth=1",
        "--config.total.epochs=None",
        "--config.total.steps=3",
        "--config.optimizer.warmup.epochs=None",
        "--config.optimizer.warmup.steps=0",
    )
    start = Run("pre", "configs/quickstart.py:pretrain", tiny)
    runs = tuple(
        Run(
            f"fine{seed}", "configs/quickstart.py:finetune", (*tiny, f"--config.seed={seed}"), start
        )
        for seed in (0, 1)
    )
    recipe = Recipe(runs, "eval/test/top1", percent=False)
    monkeypatch.setitem(small_scale.TABLES, 8, lambda paper: [(("1-D", "Stem"), recipe)])
    arguments = ["tables", "8", "--scale=small", f"--workdir={tmp_path}", "--json"]
    assert main([*arguments, "--run", "--row=1-D"]) == 0
    cells = json.loads(capfd.readouterr().out)["cells"]
    filled = [cell for cell in cells if cell["ours"] is not None]
    assert [(cell["row"], cell["column"], cell["runs"]) for cell in filled] == [("1-D", "Stem", 2)]
    metrics = [
        json.loads((tmp_path / run.workdir / "summary.json").read_text())["metrics"] for run in runs
    ]
    assert filled[0]["ours"] == pytest.approx(
        statistics.mean(found["eval/test/top1"] for found in metrics)
    )
    assert runner.run_missing(8, runner.select(8, None, None), tmp_path, "small") == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["12"], "unknown table"),
        (["8", "--row=3-D"], "--row needs --run"),
        (["8", "--run", "--row=3-D"], "unknown row of table 8 '3-D'"),
        (["8", "--run", "--column=stem"], "did you mean 'Stem'"),
        (["8", "--scale=tiny"], "unknown --scale 'tiny'"),
        (["8", "--run", "--plot=8.png"], "table 8 has no plot"),
        (["4", "--scale=small"], "table 4 has no small version; tables 5, 6, 7, 8, 9 have one"),
        (["1", "--run"], "no run fills"),
        (["--run"], "needs the number of a table"),
        (["8", "--slurm"], "--slurm needs --run"),
    ],
)
def test_wrong_input(arguments, message, tmp_path, capfd):
    assert main(["tables", f"--workdir={tmp_path}", *arguments]) == 2
    error = capfd.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
    assert not any(tmp_path.iterdir())
