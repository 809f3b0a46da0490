"""The page of runs that are done, unfinished, damaged, or compared."""

import dataclasses
import fcntl
import html.parser
import json
import re
import shutil

import numpy as np
import pytest

from vit_jax.cli.main import main
from vit_jax.config_files import load_config
from vit_jax.report import curves, look
from vit_jax.report.run import FAILED, FINISHED, RUNNING, STOPPED, distinct, read_run
from vit_jax.train import config as options


class Reader(html.parser.HTMLParser):
    """The text and the tags of a page, without scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.text, self.tags, self._within = "", [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._within = tag

    def handle_endtag(self, tag):
        self._within = ""

    def handle_data(self, data):
        if self._within not in ("script", "style"):
            self.text += " " + data.strip()


def page(*words):
    assert main(["report", *map(str, words)]) == 0
    output = next(str(w).partition("=")[2] for w in words if str(w).startswith("--output="))
    return Reader(open(output).read())


@pytest.fixture(scope="module")
def whole(finished, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "report.html"
    return page(finished, f"--output={output}")


def test_a_finished_run_has_every_part(whole, finished):
    for part in ("Loss", "Learning rate", "Images per second", "Accuracy (top-1)", "Most often"):
        assert part in whole.text
    assert "No " not in whole.text.replace("No worst", "")
    # Pairs of attention maps, and pictures of errors.
    assert len([tag for tag, _ in whole.tags if tag == "img"]) >= 12
    summary = json.loads((finished / "summary.json").read_text())
    assert f"{summary['params']:,}" in whole.text and summary["versions"]["jax"] in whole.text
    assert f"vit_jax predict --checkpoint={finished} IMAGE" in whole.text


def test_evaluation_on_the_page_is_that_of_the_command(whole, finished, capsys):
    assert main(["evaluate", f"--checkpoint={finished}", "--json"]) == 0
    top1 = json.loads(capsys.readouterr().out)["top1"]
    said = re.search(r"Top-1 ([\d.]+) % on (\d+) images", whole.text)
    assert float(said[1]) == pytest.approx(100 * top1, abs=0.01)


def test_worst_errors_are_in_the_order_of_the_command(whole, finished, capsys):
    assert main(["evaluate", f"--checkpoint={finished}", "--json"]) == 0
    worst = json.loads(capsys.readouterr().out)["worst"]
    shown = look.look(read_run(str(finished)), 10_000).worst
    assert shown and worst
    pairs = [(one.label, one.guesses[0].label) for one in shown]
    assert pairs[: len(worst)] == [(one["label"], one["predicted"]) for one in worst][: len(pairs)]


def test_names_from_others_are_escaped(whole):
    assert "<img src=x onerror=document.title=1>" in whole.text  # as text
    assert [attrs for tag, attrs in whole.tags if tag == "img" and "onerror" in attrs] == []
    assert [tag for tag, _ in whole.tags].count("script") == 1 + whole.text.count("smoothed") + len(
        [1 for _, attrs in whole.tags if attrs.get("class") == "plot"]
    )


def test_nothing_is_fetched(whole):
    for tag, attrs in whole.tags:
        place = attrs.get("src") or attrs.get("href") or "#"
        assert place.startswith(("data:", "#")), (tag, attrs)


def test_changed_options_are_those_of_the_config(finished):
    run = read_run(str(finished))
    changed = {one.name: one for one in run.changed()}
    assert changed["batch_size"].value == 8 and changed["batch_size"].default == 128
    assert changed["evals.test.split"].default == "test" and changed["model.width"].value == 32
    declared = {one.name: one.meaning for one in options.every_option()}
    assert changed["data.pp"].meaning == declared["data.pp"]
    assert "seed" not in changed and "model.posemb" not in changed


def test_the_command_that_goes_on_works(copied, caplog):
    """config.json of a workdir is a config that its run accepts."""
    config = load_config(str(copied / "config.json"))
    assert config.evals.test.split == "train[60%:]" and config.model.width == 32
    command = ["train", f"--config={copied}/config.json", f"--workdir={copied}"]
    assert main([*command, "--config.total.steps=14"]) == 0
    assert read_run(str(copied)).step == 14


def test_a_stored_config_with_a_wrong_option_is_refused(copied, capsys):
    stored = json.loads((copied / "config.json").read_text())
    for change in (dict(optimiser=3), dict(batch_size="many"), dict(evals=3)):
        (copied / "config.json").write_text(json.dumps(stored | change))
        assert main(["train", f"--config={copied}/config.json", f"--workdir={copied}"]) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert "config.json" in line and next(iter(change)) in line


def test_an_unfinished_run_says_how_to_go_on(copied, tmp_path):
    (copied / "summary.json").unlink()
    shutil.rmtree(copied / "checkpoints/12")
    metrics = (copied / "metrics.jsonl").read_text().splitlines()[:9]
    (copied / "metrics.jsonl").write_text("\n".join(metrics) + "\n")
    (copied / "goodput.jsonl").unlink()
    run = read_run(str(copied))
    assert (run.status, run.step, run.total) == (STOPPED, 9, 12)
    found = page(copied, f"--output={tmp_path}/x.html", "--no-evaluate")
    assert "vit_jax train --config=" in found.text and "goodput.jsonl is missing" in found.text
    assert "No confusion matrix: left out by --no-evaluate." in found.text


def test_a_run_under_way_and_one_that_failed(copied):
    with open(copied / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert read_run(str(copied)).status == RUNNING
    assert read_run(str(copied)).status == FINISHED
    (copied / "summary.json").unlink()
    (copied / "non_finite.json").write_text(json.dumps(dict(steps=[dict(step=12)])))
    run = read_run(str(copied))
    assert run.status == FAILED and "non_finite.json" in run.reason


def test_a_damaged_run_gives_a_page_that_says_so(copied, tmp_path):
    (copied / "config.json").write_text("{")
    (copied / "summary.json").write_text("[]")
    lines = (copied / "metrics.jsonl").read_text().splitlines()
    (copied / "metrics.jsonl").write_text("\n".join(["nonsense", *lines]) + "\n")
    for step in (copied / "checkpoints").iterdir():
        (step / "_CHECKPOINT_METADATA").unlink(missing_ok=True)
    found = page(copied, f"--output={tmp_path}/x.html")
    for note in ("config.json is damaged", "summary.json is damaged", "1 of 13 lines"):
        assert note in found.text, note
    assert "No confusion matrix: there is no checkpoint that can be used." in found.text


def test_images_that_are_gone_are_named_in_a_line(copied, finished, tmp_path):
    run = read_run(str(copied))
    run.meta["config"]["evals"]["test"]["source"] = f"folder:{tmp_path}/gone"
    found = look.look(run, 10)
    assert found.confusion is None and not found.worst and not found.attention
    assert set(found.missing) == set(look.PARTS) and "gone" in found.missing["worst"]


def test_several_runs_are_compared(finished, copied, tmp_path, capsys):
    stored = json.loads((copied / "config.json").read_text())
    stored["optimizer"]["learning_rate"] = 0.5
    stored["seed"] = 7
    (copied / "config.json").write_text(json.dumps(stored))
    output = tmp_path / "both.html"
    words = ["report", str(finished), str(copied), f"--output={output}", "--images=4", "--json"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert [run["step"] for run in told["runs"]] == [12, 12] and told["output"] == str(output)
    text = Reader(output.read_text()).text
    assert "2 runs compared" in text and "one: train/loss" in text and "copied: test/loss" in text
    differs = text[text.index("what differs") : text.index("Values that are not the default")]
    assert "optimizer.learning_rate" in differs and "0.5" in differs and "seed" in differs
    assert "batch_size" not in differs


def test_runs_of_one_name_are_told_apart(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "b/one")
    both = [read_run(str(each)) for each in (finished, tmp_path / "b/one")]
    assert [run.name for run in both] == ["one", "one"]
    assert [run.name for run in distinct(both)] == [f"{finished.parent.name}/one", "b/one"]
    assert [run.name for run in distinct(both[:1] * 2)] == ["one", "one"]


def test_a_file_alone_gives_a_page(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train/loss": 2.0}\n')
    found = page(tmp_path, f"--output={tmp_path}/x.html")
    assert "there is no checkpoint yet" in found.text and "Loss" in found.text
    assert "No configuration: config.json is missing or damaged." in found.text
    (tmp_path / "metrics.jsonl").rename(tmp_path / "goodput.jsonl")
    found = page(tmp_path, f"--output={tmp_path}/x.html")
    assert "No curves" in found.text and "goodput.jsonl: 1 of 1 lines are damaged" in found.text


def test_what_is_no_run_is_refused(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_shares_have_no_axis_beyond_all_and_top_5_of_few_classes_is_left_out(finished):
    run = read_run(str(finished))
    lines = [
        dict(step=step, **{"eval/test/top1": value, "eval/test/top5": 1.0})
        for step, value in ((1, 0.97), (2, 1.0))
    ]
    run = dataclasses.replace(run, metrics=lines)
    assert len(run.labels) == 2
    (chart,) = curves.charts([run])
    assert chart.title == "Accuracy (top-1)" and chart.y[-1].text == "100 %"
    assert all(0 <= tick.place <= 1 for tick in chart.y)
    many = dataclasses.replace(run, meta=dict(run.meta, labels=list("abcdef")))
    same, other = curves.charts([many])
    assert other.title == "Accuracy (top-5)" and other.y[-1].text == "100 %"


def test_ticks_enclose_the_values():
    rng = np.random.default_rng(0)
    for _ in range(200):
        low, high = sorted(rng.normal(size=2) * 10.0 ** rng.integers(-6, 7))
        found = curves.ticks(low, high)
        assert found[0] <= low + 1e-9 * abs(low) and found[-1] >= high - 1e-9 * abs(high)
        assert 2 <= len(found) <= 8
        steps = np.diff(found)
        assert np.allclose(steps, steps[0])
        low, high = sorted(10.0 ** rng.uniform(-5, 5, 2))
        found = curves.log_ticks(low, high)
        assert found[0] <= low * 1.00001 and found[-1] >= high * 0.99999
    assert curves.ticks(3, 3)[0] < 3 < curves.ticks(3, 3)[-1]


def test_thinned_curves_keep_ends_and_extremes():
    values = np.random.default_rng(0).normal(size=10_000)
    points = list(enumerate(values.tolist()))
    thin = curves.thinned(points, 600)
    assert len(thin) <= 602 and thin[0] == points[0] and thin[-1] == points[-1]
    assert {min(values), max(values)} <= {value for _, value in thin}
    assert [step for step, _ in thin] == sorted({step for step, _ in thin})


def test_smoothing_is_the_debiased_moving_average_of_adam():
    """Kingma & Ba (1412.6980), section 3: of a constant it is that constant from the start."""
    assert curves.smoothed([(i, 3.0) for i in range(50)])[0][1] == pytest.approx(3.0)
    import jax.numpy as jnp
    import optax

    values = np.random.default_rng(0).normal(size=100)
    average = optax.ema(1 - 1 / 4.0, debias=True)  # 4 % of 100 points
    state = average.init(jnp.zeros(()))
    for (_, ours), value in zip(curves.smoothed(list(enumerate(values))), values):
        theirs, state = average.update(jnp.asarray(value), state)
        assert ours == pytest.approx(float(theirs), rel=1e-4, abs=1e-6)


def test_the_picture_of_many_classes_is_dark_where_images_are():
    from base64 import b64decode
    from io import BytesIO

    from PIL import Image

    found = look.heatmap(np.eye(30, dtype=np.int64) * 5)
    pixels = np.asarray(Image.open(BytesIO(b64decode(found.partition(",")[2]))).convert("L"))
    assert pixels.shape == (30, 30) and pixels.diagonal().max() < 100
    assert pixels[~np.eye(30, dtype=bool)].min() > 200


def test_attention_is_brightest_where_it_is_highest():
    seen = np.zeros((4, 4))
    seen[1, 2] = 0.7
    image = np.full((32, 32, 3), 100, np.uint8)
    tinted = look.tinted(image, seen).sum(axis=-1)
    row, column = np.unravel_index(tinted.argmax(), tinted.shape)
    assert (row // 8, column // 8) == (1, 2)
    assert tinted[0, 0] == tinted.min()
    assert look.tinted(image, np.full((4, 4), 0.25)).std(axis=(0, 1)).max() == 0  # no division by 0
