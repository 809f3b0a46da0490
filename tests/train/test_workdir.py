"""Which configs a workdir takes back."""

import json
import types

import jax.numpy as jnp
import pytest

from vit_jax import InputError
from vit_jax.config import default
from vit_jax.train import workdir
from vit_jax.train.resume import announce_schedule
from vit_jax.train.workdir import claim_workdir, only_run_in, open_workdir


def stored(workdir):
    return json.loads((workdir / "config.json").read_text())


def begin(workdir, config):
    claim_workdir(open_workdir(str(workdir), config), config)


def test_a_run_begun_before_an_option_existed_goes_on(tmp_path):
    begin(tmp_path, default())
    older = stored(tmp_path)
    del older["model"]["posemb"], older["optimizer"]["b2"]
    (tmp_path / "config.json").write_text(json.dumps(older))
    open_workdir(str(tmp_path), default())
    other = default()
    other.model.posemb = "none"
    with pytest.raises(InputError, match=r"another config: model\.posemb \('learned' there\)"):
        open_workdir(str(tmp_path), other)
    assert stored(tmp_path) == older


def test_where_and_how_a_run_runs_may_change(tmp_path):
    begin(tmp_path, default())
    other = default()
    other.parallel.fsdp = 8
    other.model.remat = "full"
    other.total.steps = 7
    begin(tmp_path, other)
    assert stored(tmp_path)["parallel"]["fsdp"] == 8


@pytest.mark.parametrize("section", ["model", "loss", "parallel", "mine"])
@pytest.mark.parametrize("begun_with_it", [True, False])
def test_an_option_that_resume_does_not_know_is_refused(section, begun_with_it, tmp_path):
    """Of a section whose other options are free, too; whichever of the two configs has it."""
    with_it = default()
    with with_it.unlocked():
        with_it[section] = {**with_it.get(section, {}), "unknown": 2}
    configs = [with_it, default()] if begun_with_it else [default(), with_it]
    begin(tmp_path, configs[0])
    there = 2 if begun_with_it else None
    with pytest.raises(InputError, match=rf"another config: {section}\.unknown \({there} there\)"):
        open_workdir(str(tmp_path), configs[1])
    open_workdir(str(tmp_path), configs[0])


def test_one_run_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(workdir, "PAUSE", 0.01)
    for _ in range(2):  # the first gives it free again
        with only_run_in(tmp_path):
            second = only_run_in(tmp_path)
            with pytest.raises(InputError, match="another process trains there"):
                second.__enter__()


def test_a_lock_that_cannot_be_opened_is_one_line(tmp_path):
    (tmp_path / "lock").mkdir()
    with pytest.raises(InputError, match="cannot use .* as workdir: Is a directory"):
        only_run_in(tmp_path).__enter__()


def test_a_summary_goes_with_the_end_it_was_of(tmp_path):
    (tmp_path / "summary.json").write_text("{}")
    begin(tmp_path, default())
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"[]", "not an object"),
        (b"null", "not an object"),
        (b"3", "not an object"),
        (b'"x"', "not an object"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"model": ' + b"[" * 100_000, "nested too deep"),
        (b'{"mod', "Unterminated"),
        (b"", "Expecting value"),
    ],
)
def test_a_config_that_is_damaged_is_named_and_kept(content, problem, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"config\.json is damaged \(.*{problem}.*delete it"):
        open_workdir(str(tmp_path), default())
    assert (tmp_path / "config.json").read_bytes() == content


VALUES = [None, [], {}, 3, -1, 1e29, 10**40, "x", [[[]]], {"a": {"b": 1}}, True, ...]


def test_any_value_in_a_stored_config_is_accepted_or_refused_in_one_line(tmp_path):
    begin(tmp_path, default())
    whole = stored(tmp_path)
    for key in whole:
        for value in VALUES:
            changed = {k: v for k, v in (whole | {key: value}).items() if v is not ...}
            (tmp_path / "config.json").write_text(json.dumps(changed))
            try:
                open_workdir(str(tmp_path), default())
            except InputError as error:
                assert str(tmp_path) in str(error) and "\n" not in str(error), (key, value)


def places(tree, path=()):
    """The path of every option and section below the top level."""
    for key, value in tree.items():
        if path:
            yield (*path, key)
        if isinstance(value, dict):
            yield from places(value, (*path, key))


def changed(tree, path, value):
    key, *rest = path
    if rest:
        return {**tree, key: changed(tree[key], rest, value)}
    return {k: v for k, v in {**tree, key: value}.items() if v is not ...}


def test_any_value_of_any_option_in_a_stored_config(tmp_path):
    """A resumed run compares all of them, and reads the former length and schedule."""
    config = default()
    config.total.steps = 20
    begin(tmp_path, config)
    whole = stored(tmp_path)
    run = types.SimpleNamespace(config=config, total_steps=30, schedule=lambda update: update)
    accepted = refused = 0
    for place in places(whole):
        for value in (None, [], 10**40, 1e29, -1, "x", {"a": [[1]]}, ...):
            (tmp_path / "config.json").write_text(json.dumps(changed(whole, place, value)))
            try:
                open_workdir(str(tmp_path), config)
                if place[0] in ("total", "optimizer"):
                    announce_schedule(run, tmp_path, 3, jnp.int32(0), 80)
                accepted += 1
            except InputError as error:
                refused += 1
                assert str(tmp_path) in str(error) and "\n" not in str(error), (place, value)
    assert accepted and refused
