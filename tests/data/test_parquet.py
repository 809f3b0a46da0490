"""Parquet files and Hugging Face data sets: the same examples as the folder they come from."""

import json
import sys
import threading

import numpy as np
import pytest

from tests.data.table_batches import PP, same, take
from vit_jax.data import open_source, parse, train_batches
from vit_jax.data.sources import cache
from vit_jax.errors import InputError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def columns_of(folder):
    files = sorted(folder.rglob("*.jpg"))
    labels = [("cat", "dog").index(path.parent.name) for path in files]
    return [path.read_bytes() for path in files], labels


def features(names=("cat", "dog"), kind="ClassLabel"):
    label = dict(names=list(names), _type=kind)
    found = dict(info=dict(features=dict(image=dict(_type="Image"), label=label)))
    return {"huggingface": json.dumps(found)}


def table_of(images, labels, metadata=None):
    structs = [dict(bytes=image, path=f"{i}.jpg") for i, image in enumerate(images)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", kind), ("label", pa.int64())], metadata or features())
    return pa.Table.from_arrays(
        [pa.array(structs, kind), pa.array(labels, pa.int64())], schema=schema
    )


@pytest.fixture
def shards(folder, tmp_path):
    """The images of `folder` in two files with groups of three rows, as the hub names them."""
    images, labels = columns_of(folder)
    (tmp_path / "hub" / "data").mkdir(parents=True)
    for i in range(2):
        rows = slice(i * 12, i * 12 + 12)
        path = tmp_path / "hub" / "data" / f"train-{i:05}-of-00002.parquet"
        pq.write_table(table_of(images[rows], labels[rows]), path, row_group_size=3)
    return tmp_path / "hub"


def test_parquet_trains_the_same_bits_as_the_folder(folder, shards):
    expected = take(open_source(f"folder:{folder}", "train"))
    source = open_source(f"parquet:{shards}/data/train-*", "train")
    assert source.label_names == ["cat", "dog"] and source.size == 20
    same(take(source), expected)
    same(take(open_source(f"hf:{shards}", "train")), expected)
    for split in ("train[:60%]", "train[60%:]"):
        a, b = open_source(f"hf:{shards}", split), open_source(f"folder:{folder}", split)
        np.testing.assert_array_equal(a.picked, b.rows)
        np.testing.assert_array_equal(a.targets, b.targets)


@pytest.mark.parametrize("kind", ["binary", "large", "names", "dictionary", "bare"])
def test_other_types_of_columns(folder, tmp_path, kind):
    images, labels = columns_of(folder)
    names = [("cat", "dog")[label] for label in labels]
    image_type = pa.large_binary() if kind == "large" else pa.binary()
    column = pa.array(names if kind in ("names", "dictionary") else labels)
    if kind == "dictionary":
        column = column.dictionary_encode()
    pq.write_table(
        pa.table(dict(img=pa.array(images, image_type), target=column)), tmp_path / "x.parquet"
    )
    source = open_source(f"parquet:{tmp_path}/x.parquet", "train")
    assert source.label_names == (["cat", "dog"] if column.type != pa.int64() else ["0", "1"])
    same(take(source, 1), take(open_source(f"folder:{folder}", "train"), 1))


def test_lists_of_classes(folder, tmp_path):
    images, _ = columns_of(folder)
    listed = dict(feature=dict(names=["a", "b", "c"], _type="ClassLabel"), _type="List")
    metadata = {"huggingface": json.dumps(dict(info=dict(features=dict(labels=listed))))}
    schema = pa.schema([("image", pa.binary()), ("labels", pa.list_(pa.int64()))], metadata)
    table = pa.Table.from_pydict(dict(image=images[:3], labels=[[2, 0], [], [1]]), schema=schema)
    pq.write_table(table, tmp_path / "sets.parquet")
    source = open_source(f"parquet:{tmp_path}/sets.parquet", "train", multi_label=True)
    assert source.label_names == ["a", "b", "c"]
    np.testing.assert_array_equal(source.labels(np.arange(3)), [[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    with pytest.raises(InputError, match="holds sets of classes; set data.multi_label=True"):
        open_source(f"parquet:{tmp_path}/sets.parquet", "train")


def test_going_on_and_sharing_batches_are_exact(shards):
    source = open_source(f"hf:{shards}", "train")
    whole = take(source, 6)
    late = take(open_source(f"hf:{shards}", "train"), 3, start_step=3)
    same({name: value[3:] for name, value in whole.items()}, late)
    halves = [take(source, 6, rows=np.arange(i * 4, i * 4 + 4)) for i in range(2)]
    same({name: np.concatenate([h[name] for h in halves], 1) for name in whole}, whole)


def test_splits_come_from_the_names_of_files(folder, tmp_path):
    images, labels = columns_of(folder)
    for name in ("train-00000-of-00001", "data/validation-00000-of-00001", "pets_test", "dev/0000"):
        path = tmp_path / "hub" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table_of(images[:2], labels[:2]), path)
    sizes = {s: open_source(f"hf:{tmp_path}/hub", s).size for s in ("train", "validation", "test")}
    assert sizes == dict(train=2, validation=4, test=2)


def test_few_row_groups_are_held_whatever_is_read(shards, monkeypatch):
    from vit_jax.data.sources.tables import parquet

    source = open_source(f"hf:{shards}", "train")
    expected = source.fetch(np.arange(20))
    monkeypatch.setattr(parquet, "CACHE_BYTES", 10_000)
    source = open_source(f"hf:{shards}", "train")
    errors = []

    def read(seed):
        rows = np.random.default_rng(seed).integers(0, 20, 50)
        errors.extend(r for r in rows if source.fetch(np.array([r]))[0] != expected[r])

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    held = source.images._groups
    assert len(held) == 1 or sum(group.nbytes for group in held.values()) <= 10_000


@pytest.mark.parametrize("change", ["pixels", "label", "name"])
def test_a_change_of_content_changes_the_fingerprint(folder, shards, change):
    before = open_source(f"hf:{shards}", "train").fingerprint()
    assert open_source(f"hf:{shards}", "train").fingerprint() == before
    images, labels = columns_of(folder)
    path = shards / "data" / "train-00000-of-00002.parquet"
    if change == "pixels":
        images[3] = images[4]
    elif change == "label":
        labels[3] = 1
    else:
        path.unlink()
        path = shards / "data" / "train-00000-of-00003.parquet"
    pq.write_table(table_of(images[:12], labels[:12]), path, row_group_size=3)
    assert open_source(f"hf:{shards}", "train").fingerprint() != before


def test_the_index_is_kept_until_a_file_changes(folder, shards, monkeypatch):
    from vit_jax.data.sources.tables import schema

    monkeypatch.setattr(cache, "SMALL", 1)
    first = take(open_source(f"hf:{shards}", "train"))
    assert list((shards / "data" / ".vit_jax").glob("parquet-*.npz"))
    with monkeypatch.context() as patch:
        patch.setattr(schema, "label_column", None)  # would be called to make it
        same(take(open_source(f"hf:{shards}", "train")), first)
    images, labels = columns_of(folder)
    path = shards / "data" / "train-00000-of-00002.parquet"
    pq.write_table(table_of(images[:11], labels[:11]), path)
    assert open_source(f"hf:{shards}", "train").size == 19


def test_an_image_that_is_null_is_unreadable(folder, tmp_path):
    images, labels = columns_of(folder)
    pq.write_table(table_of([None, *images[1:]], labels), tmp_path / "x.parquet")
    batches = train_batches(
        open_source(f"parquet:{tmp_path}/x.parquet", "train"), parse(PP), batch_size=20, seed=0
    )
    assert next(batches)["image"].shape == (20, 12, 12, 3) and batches.skipped == 1
    batches.close()


def written(tmp_path, table, **options):
    pq.write_table(table, tmp_path / "x.parquet", **options)
    return f"parquet:{tmp_path}/x.parquet"


def test_bad_files_are_refused_in_a_line(folder, tmp_path, monkeypatch):
    from vit_jax.data.sources.tables import parquet

    images, labels = columns_of(folder)
    good = table_of(images, labels)
    cases = [
        (pa.table(dict(text=["a"], label=[1])), "no column of images; its columns are text"),
        (
            pa.table(dict(a=[b"a"], b=[b"b"], label=[1])),
            "2 columns of images; .*choose one: .image=",
        ),
        (good.drop_columns("label"), r"no column of labels; its columns are image \(struct\)"),
        (good.slice(0, 0), "has no rows"),
        (table_of(images[:2], [0, 2]), "column label holds 2, but its schema names 2 classes"),
        (table_of(images[:2], [0, -1]), "x.parquet row 1 has no label"),
        (table_of(images[:2], [0, 1], features(("a", "a"))), "names two classes 'a'"),
        (pa.table(dict(image=images[:1], label=[1.5])), "column label holds double"),
    ]
    for table, message in cases:
        with pytest.raises(InputError, match=message) as caught:
            open_source(written(tmp_path, table), "train")
        assert "\n" not in str(caught.value)
    spec = written(tmp_path, good)
    for query, message in (
        ("?label=lable", "column of .* 'lable'"),
        ("?img=image", "option of parquet"),
    ):
        with pytest.raises(InputError, match=message):
            open_source(spec + query, "train")
    whole = (tmp_path / "x.parquet").read_bytes()
    for size in (0, 3, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "x.parquet").write_bytes(whole[:size])
        with pytest.raises(InputError, match="x.parquet: cannot be read as parquet") as caught:
            open_source(spec, "train")
        assert "\n" not in str(caught.value)
    spec = written(tmp_path, good)
    monkeypatch.setattr(parquet, "MAX_GROUP_BYTES", 1000)
    with pytest.raises(
        InputError, match="row group 0 has .* write it with a smaller row_group_size"
    ):
        open_source(spec, "train")


def test_damaged_pages_end_the_run_in_a_line(shards):
    path = shards / "data" / "train-00000-of-00002.parquet"
    damaged = bytearray(path.read_bytes())
    damaged[20:2000] = bytes(1980)
    path.write_bytes(damaged)
    with pytest.raises(InputError, match="train-00000-of-00002.parquet: cannot be read") as caught:
        take(open_source(f"hf:{shards}", "train"))
    assert "\n" not in str(caught.value)


def test_files_of_different_classes_are_refused(folder, shards):
    images, labels = columns_of(folder)
    path = shards / "data" / "train-00001-of-00002.parquet"
    pq.write_table(table_of(images[12:], labels[12:], features(("dog", "cat"))), path)
    with pytest.raises(InputError, match="images or classes of another type"):
        open_source(f"hf:{shards}", "train")


def test_a_data_set_of_the_library(folder, shards, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    saved = datasets.Dataset.from_parquet(
        sorted(map(str, shards.glob("data/*"))), cache_dir=str(tmp_path / "cache")
    )
    datasets.DatasetDict(train=saved, test=saved.select(range(4))).save_to_disk(tmp_path / "saved")
    expected = take(open_source(f"folder:{folder}", "train"))
    source = open_source(f"hf:{tmp_path}/saved", "train")
    same(take(source), expected)
    assert open_source(f"hf:{tmp_path}/saved", "test").size == 4
    assert source.fingerprint() == open_source(f"hf:{tmp_path}/saved", "train").fingerprint()
    assert (
        source.fingerprint() != open_source(f"hf:{tmp_path}/saved", "test+train[:16]").fingerprint()
    )
    # A name on the hub: the library's answer is the same object.
    asked = []

    def load(name, config, revision):
        asked.append((name, config, revision))
        return datasets.DatasetDict(train=saved)

    monkeypatch.setattr(datasets, "load_dataset", load)
    same(take(open_source("hf:someone/pets?config=small", "train")), expected)
    assert asked == [("someone/pets", "small", None)]


def test_names_of_the_hub_without_network_or_library(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")

    def load(*_, **__):
        raise ConnectionError("Couldn't reach the hub\nsecond line")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(
        InputError, match="someone/pets cannot be loaded .*: ConnectionError"
    ) as found:
        open_source("hf:someone/pets", "train")
    assert "\n" not in str(found.value)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match="needs datasets: pip install datasets"):
        open_source("hf:someone/pets", "train")
    with pytest.raises(InputError, match="no such directory"):
        open_source("hf:./missing", "train")
    with pytest.raises(InputError, match="a subfolder of images per class is read by folder:"):
        open_source(f"hf:{tmp_path}", "train")


def test_without_pyarrow_a_line_says_what_to_install(tmp_path, monkeypatch):
    from vit_jax.data.sources import tables
    from vit_jax.data.sources.tables import parquet

    monkeypatch.delattr(tables, "parquet")
    monkeypatch.delitem(sys.modules, parquet.__name__)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match="need pyarrow: pip install pyarrow"):
        open_source(f"parquet:{tmp_path}/x.parquet", "train")


@pytest.mark.parametrize(
    "path, split",
    [
        ("data/train-00000-of-00002.parquet", "train"),
        ("holdout-00000-of-00002-5ab1.parquet", "holdout"),
        ("data/validation-00001-of-00002.parquet", "validation"),
        ("my_val_pets.csv", "validation"),
        ("latest.csv", "train"),
        ("default/test/0000.parquet", "test"),
        ("test_data/0000.parquet", "train"),
        ("0000.parquet", "train"),
    ],
)
def test_splits_are_named_as_on_the_hub(path, split):
    from vit_jax.data.sources.tables.names import split_of

    assert split_of(f"/somewhere/{path}") == split
