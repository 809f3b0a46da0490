"""A run's checkpoints: layouts, every kind of damage, what stays, what others read."""

import json
import logging
import os
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vit_jax import config as configs
from vit_jax.checkpoint import damage, stored
from vit_jax.checkpoint.load import read_weights
from vit_jax.checkpoint.manager import SMALLEST_PART, Checkpoints
from vit_jax.errors import InputError

SHAPES = {"kernel": (8, 48, 64), "bias": (64,)}  # one fingerprinted on devices, one on the host
LAYOUTS = {"one device": {}, "mesh": {"kernel": ("a", None, "b"), "bias": ("b",)}}


def options(**changes):
    config = configs.default().checkpoint
    config.update(changes)
    return config


def abstract_items(layout):
    specs = LAYOUTS[layout]
    if specs:
        mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("a", "b"))
    else:
        mesh = Mesh(np.array(jax.devices()[:1]), ("a",))

    def leaf(name, dtype=jnp.float32):
        sharding = NamedSharding(mesh, PartitionSpec(*specs.get(name, ())))
        return jax.ShapeDtypeStruct(SHAPES.get(name, ()), dtype, sharding=sharding)

    tree = {name: leaf(name) for name in SHAPES}
    return dict(params=tree, train=dict(mu=dict(tree), step=leaf("step", jnp.int32)))


def numbers(step):
    """What the checkpoint of a step holds, as numpy arrays."""
    rng = np.random.default_rng(step)
    params = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    mu = jax.tree.map(np.square, params)
    return dict(params=params, train=dict(mu=mu, step=np.int32(step)))


def on_devices(layout, step):
    return jax.tree.map(
        lambda leaf, array: jax.device_put(array, leaf.sharding),
        abstract_items(layout),
        numbers(step),
    )


def write(workdir, steps, layout="one device", **changes):
    checkpoints = Checkpoints(workdir, options(keep=9, **changes))
    for step in steps:
        assert checkpoints.save(step, on_devices(layout, step), {"kept": "too"}, {}, wait=True)
    checkpoints.close()
    return checkpoints.directory


def assert_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def tree_of(directory):
    """Every file with its content."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Checkpoints of steps 2 and 4, to be copied."""
    return write(tmp_path_factory.mktemp("written"), [2, 4]).parent


@pytest.fixture
def workdir(written, tmp_path):
    return shutil.copytree(written, tmp_path / "run")


def largest(checkpoint, under="params"):
    files = [path for path in (checkpoint / under).rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def flip(path, at=None):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 4
    path.write_bytes(data)


def truncate(checkpoint):
    path = largest(checkpoint)
    os.truncate(path, path.stat().st_size // 2)
    return f"{path.relative_to(checkpoint)} has"


def remove(checkpoint):
    (checkpoint / "train" / "manifest.ocdbt").unlink()
    return "train/manifest.ocdbt is missing"


def flip_metadata(checkpoint):
    flip(checkpoint / "params" / "_METADATA")
    return "params/_METADATA is not what was written"


def flip_meta(checkpoint):
    flip(checkpoint / "meta" / "metadata")
    return "meta/metadata is not what was written"


def empty(checkpoint):
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()
    return "_CHECKPOINT_METADATA is missing"


def empty_item(checkpoint):
    shutil.rmtree(checkpoint / "params")
    (checkpoint / "params").mkdir()
    return "params/_METADATA is missing"


def break_list(checkpoint):
    (checkpoint / "files.json").write_text("{")
    return "files.json is not what was written"


def change_array(checkpoint):
    """What neither sizes, checksums nor TensorStore can see: other numbers, rightly written."""
    tree = numbers(int(checkpoint.name))["params"]
    tree["kernel"][3, 4, 5] = np.nextafter(tree["kernel"][3, 4, 5], 9)
    shutil.rmtree(checkpoint / "params")
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(checkpoint / "params", tree)
    (checkpoint / "files.json").unlink()
    return "params/kernel changed since it was written"


DAMAGES = [truncate, remove, flip_metadata, flip_meta, empty, empty_item, break_list, change_array]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("harm", DAMAGES)
def test_damage_is_named_and_an_older_checkpoint_taken(harm, layout, workdir, caplog):
    expected = harm(workdir / "checkpoints" / "4")
    before = tree_of(workdir / "checkpoints" / "4")
    checkpoints = Checkpoints(workdir, options())
    with caplog.at_level(logging.WARNING):
        step, items = checkpoints.restore_newest(abstract_items(layout))
    assert step == checkpoints.latest() == 2
    assert_equal(items, numbers(2))
    assert re.search(f"{checkpoints.directory}/4 is damaged: [^ ]*{expected}", caplog.text)
    assert tree_of(checkpoints.directory / "damaged" / "4") == before
    # The run comes to the step again.
    assert checkpoints.save(4, on_devices(layout, 4), {}, {}, wait=True)
    assert Checkpoints(workdir, options()).restore_newest(abstract_items(layout))[0] == 4


@pytest.mark.parametrize("layout", LAYOUTS)
def test_where_none_is_good_nothing_is_touched(layout, workdir):
    message = truncate(workdir / "checkpoints" / "4")
    flip_meta(workdir / "checkpoints" / "2")
    before = tree_of(workdir)
    for _ in range(2):  # nor does the next start begin from nothing
        with pytest.raises(InputError, match="no other .* is good; nothing was deleted") as error:
            Checkpoints(workdir, options()).restore_newest(abstract_items(layout))
        assert message in str(error.value) and "\n" not in str(error.value)
        assert tree_of(workdir) == before


# TensorStore's callback finds Orbax's event loop closed when a read has failed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_flipped_byte_in_any_file_is_found_or_harmless(workdir, monkeypatch):
    """Without the checksums of small files, as if all were large: fingerprints alone."""
    checkpoint = workdir / "checkpoints" / "4"
    for name in list(files := tree_of(checkpoint)):
        if name == "files.json":
            continue
        path = checkpoint / name
        flip(path, np.random.default_rng().integers(len(files[name])))
        (checkpoint / "files.json").unlink()
        checkpoints = Checkpoints(workdir, options())
        try:
            found = checkpoints.restore(4, abstract_items("mesh"))
        except damage.DamagedCheckpoint:
            pass
        except InputError as error:  # a digit of a shape in the metadata
            assert "does not fit" in str(error) and "META" in name.upper()
        else:
            assert_equal(found, numbers(4))
        path.write_bytes(files[name])
        (checkpoint / "files.json").write_bytes(files["files.json"])
    assert_equal(checkpoints.restore(4, abstract_items("mesh")), numbers(4))


def test_a_config_that_does_not_fit_is_no_damage(workdir):
    wanted = abstract_items("one device")
    wanted["params"]["bias"] = jax.ShapeDtypeStruct((65,), jnp.float32)
    wanted["params"]["scale"] = wanted["train"]["step"]
    del wanted["train"]["mu"]["bias"]
    before = tree_of(workdir)
    with pytest.raises(InputError) as error:
        Checkpoints(workdir, options()).restore_newest(wanted)
    assert not isinstance(error.value, damage.DamagedCheckpoint)
    for problem in (
        "4 does not fit the config",
        "params/bias: checkpoint (64,), config (65,)",
        "params/scale: checkpoint has none, config ()",
        "train/mu/bias: checkpoint (64,), config has none",
    ):
        assert problem in str(error.value)
    assert tree_of(workdir) == before


@pytest.mark.parametrize("there", LAYOUTS)
def test_layouts_and_donated_buffers(there, tmp_path):
    """What is saved is the state at the call, though its memory is used again at once."""
    update = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 7, tree), donate_argnums=0)
    checkpoints = Checkpoints(tmp_path, options(keep=9))
    other = next(layout for layout in LAYOUTS if layout != there)
    for step in range(1, 5):
        state = on_devices(there, step)
        jax.block_until_ready(state)
        checkpoints.save(step, state, {}, {})
        for _ in range(3):
            state = update(state)
        jax.block_until_ready(state)
    checkpoints.wait()
    for step in range(1, 5):
        assert_equal(checkpoints.restore(step, abstract_items(other)), numbers(step))


def test_only_large_arrays_are_written_in_parts_by_the_devices_that_hold_them(tmp_path):
    sharding = NamedSharding(Mesh(np.array(jax.devices()), ("a",)), PartitionSpec())
    shapes = dict(small=(64, 64), large=(8, SMALLEST_PART // 4))
    tree = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    checkpoints = Checkpoints(tmp_path, options())
    assert checkpoints.save(1, dict(params=jax.device_put(tree, sharding)), {}, {}, wait=True)
    checkpoints.close()
    found = ocp.StandardCheckpointHandler().metadata(checkpoints.directory / "1/params").tree
    parts = {name: leaf.storage.chunk_shape for name, leaf in found.items()}
    assert parts == dict(small=(64, 64), large=(1, SMALLEST_PART // 4))


def test_moments_in_another_type_are_converted_after_verification(workdir):
    wanted = abstract_items("mesh")
    for name, leaf in wanted["train"]["mu"].items():
        wanted["train"]["mu"][name] = jax.ShapeDtypeStruct(
            leaf.shape, jnp.bfloat16, sharding=leaf.sharding
        )
    _, found = Checkpoints(workdir, options()).restore_newest(wanted)
    expected = jax.tree.map(lambda x: x.astype(jnp.bfloat16), numbers(4)["train"]["mu"])
    assert_equal(found["train"]["mu"], expected)


def test_checkpoints_of_older_versions_restore_unverified(tmp_path, caplog):
    with ocp.CheckpointManager(tmp_path / "checkpoints") as manager:
        saves = {name: ocp.args.StandardSave(tree) for name, tree in numbers(6).items()}
        manager.save(6, args=ocp.args.Composite(meta=ocp.args.JsonSave({}), **saves))
    checkpoints = Checkpoints(tmp_path, options())
    step, items = checkpoints.restore_newest(abstract_items("mesh"))
    assert step == 6
    assert_equal(items, numbers(6))
    assert "6 was written without fingerprints: not verified" in caplog.text


def test_what_a_killed_save_or_deletion_leaves_is_cleared_away(workdir):
    directory = workdir / "checkpoints"
    shutil.copytree(directory / "4", directory / "6.orbax-checkpoint-tmp")
    (directory / "6.orbax-checkpoint-tmp" / "_CHECKPOINT_METADATA").unlink()
    (directory / "2").rename(directory / "2.orbax-checkpoint-tmp")
    checkpoints = Checkpoints(workdir, options())
    assert checkpoints.restore_newest(abstract_items("mesh"))[0] == 4
    assert checkpoints.save(6, on_devices("mesh", 6), {}, {}, wait=True)
    assert sorted(os.listdir(directory)) == ["4", "6"]


def test_an_empty_workdir_has_no_checkpoint(tmp_path):
    checkpoints = Checkpoints(tmp_path, options())
    assert checkpoints.latest() is None
    assert checkpoints.restore_newest(abstract_items("mesh")) is None


@pytest.mark.parametrize("under", ["", "checkpoints", "checkpoints/4"])
def test_readers_are_told_which_file_is_damaged_and_what_is_good(under, workdir):
    message = truncate(workdir / "checkpoints" / "4")
    with pytest.raises(InputError, match=f"give {workdir}/checkpoints/2$") as error:
        read_weights(workdir / under)
    assert message in str(error.value)
    assert stored.latest_checkpoint(workdir / "checkpoints" / "2").name == "2"


def test_readers_verify_fingerprints(workdir):
    checkpoint = workdir / "checkpoints" / "4"
    assert_equal(stored.read_params(checkpoint), numbers(4)["params"])
    message = change_array(checkpoint)
    with pytest.raises(InputError, match=f"{message}; give .*/2$"):
        stored.read_params(stored.latest_checkpoint(workdir))


def test_meta_goes_with_the_checkpoint(written):
    meta = stored.read_meta(stored.latest_checkpoint(written))
    assert meta["kept"] == "too"


def test_an_image_folder_is_no_workdir(tmp_path):
    """Classes that are called by numbers."""
    for name in "0123":
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match="holds no complete checkpoint"):
        stored.latest_checkpoint(tmp_path)


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("how", [shutil.copytree, os.symlink, os.rename])
def test_a_checkpoint_under_another_steps_name_is_damaged(how, earlier, workdir, caplog):
    """Its stored step decides, also in checkpoints of versions that kept it in `train` alone."""
    directory = workdir / "checkpoints"
    if earlier:
        meta = directory / "4" / "meta" / "metadata"
        document = json.loads(meta.read_text())
        del document["step"]
        meta.write_text(json.dumps(document))
        (directory / "4" / "files.json").unlink()
    how(directory / "4", directory / "999")
    if not earlier:
        with pytest.raises(InputError, match="999 is damaged: it is a copy of step 4's checkpoint"):
            stored.latest_checkpoint(workdir)
    step, items = Checkpoints(workdir, options()).restore_newest(abstract_items("one device"))
    assert step == (2 if how is os.rename else 4)
    assert_equal(items, numbers(step))
    assert "it is a copy of step 4's checkpoint under another name" in caplog.text
    assert os.listdir(directory / "damaged") == ["999"]


def test_names_that_are_no_steps_are_passed_over(workdir):
    for name in ("04", "²", "+4", "4 "):
        shutil.copytree(workdir / "checkpoints" / "4", workdir / "checkpoints" / name)
    assert stored.steps_in(workdir / "checkpoints") == [2, 4]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"data": ...}, "data is missing"),
        ({"data": {}}, r"data\.fingerprint is missing"),
        ({"data": {"fingerprint": {"size": []}}}, r"data\.fingerprint\.size is \[\]"),
        ({"spikes": 3}, "spikes is 3"),
        ({"spikes": {"losses": ["1"]}}, r"spikes\.losses\[0\] is '1', not a number"),
        ({"fingerprints": {"params": 7}}, r"fingerprints\.params is 7"),
        ({"unreadable": "3"}, "unreadable is '3', not a whole number"),
        ({"labels": [1]}, r"labels\[0\] is 1, not a text"),
        ({"model": {"name": None}}, r"model\.name is None, not a text"),
        (b"[" * 100_000, "nested too deep"),
        (b"null", "it is None, not an object"),
        (b'{"model": "\xff"}', "not UTF-8"),
        (b"{", "Expecting"),
    ],
)
def test_metadata_of_other_types_are_damage_named_by_key(changes, problem, workdir, caplog):
    """Of a checkpoint without its list of files, whose checksums would tell."""
    good = dict(model={"name": "x"}, pp="", labels=[], config={}, data={"fingerprint": {"size": 1}})
    for step in (2, 4):
        checkpoint = workdir / "checkpoints" / str(step)
        (checkpoint / "files.json").unlink()
        path = checkpoint / "meta" / "metadata"
        path.write_text(json.dumps(json.loads(path.read_text()) | good))
    if isinstance(changes, dict):
        document = json.loads(path.read_text()) | changes
        changes = json.dumps({k: v for k, v in document.items() if v is not ...}).encode()
    path.write_bytes(changes)
    with pytest.raises(InputError, match=problem):
        stored.read_meta(stored.latest_checkpoint(workdir), stored.USE)
    checkpoints = Checkpoints(workdir, options())
    step, _ = checkpoints.restore_newest(abstract_items("one device"), stored.USE)
    assert step == 2 and re.search(problem, caplog.text)


def test_a_workdir_that_is_deleted_during_the_run_is_noticed(tmp_path, caplog):
    """Also where a save that was under way makes its directories again."""
    config = tmp_path / "config.json"
    config.write_text("{}")
    checkpoints = Checkpoints(tmp_path, options(retries=0))
    items = on_devices("one device", 2)
    assert checkpoints.save(2, items, {}, {}, wait=True)
    config.unlink()
    assert not checkpoints.save(4, items, {}, {}, wait=True)
    assert f"{config} is gone: the workdir was deleted or moved during the run" in caplog.text
    config.write_text("{}")
    assert checkpoints.save(6, items, {}, {}, wait=True)
    checkpoints.close()
