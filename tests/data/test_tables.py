"""Tables that name image files: the same examples as the folder they lie in."""

import json

import numpy as np
import pytest

from tests.data.table_batches import PP, same, take
from vit_jax.data import open_source, parse, train_batches
from vit_jax.data.sources import cache
from vit_jax.errors import InputError


def rows_of(folder):
    """(path, label) of each image, in the order of `folder:`."""
    return [(f"{p.parent.name}/{p.name}", p.parent.name) for p in sorted(folder.rglob("*.jpg"))]


def write(folder, text, name="pets.csv"):
    path = folder / name
    path.write_text(text)
    return f"csv:{path}"


def csv_of(folder, header="path,label"):
    return "\n".join([header, *(f"{path},{label}" for path, label in rows_of(folder))]) + "\n"


def variants(folder):
    """The same table in each form that is read."""
    rows = rows_of(folder)
    yield csv_of(folder), "pets.csv", ""
    yield csv_of(folder, "File_Name,class").replace(",", "\t"), "pets.tsv", ""
    yield "\ufeff" + csv_of(folder).replace(",", ";").replace("\n", "\r\n"), "pets.csv", ""
    yield "".join(json.dumps(dict(file_name=p, label=c)) + "\n" for p, c in rows), "m.jsonl", ""
    yield csv_of(folder, "a photo,breed"), "pets.csv", "?path=a+photo&label=breed"


@pytest.mark.parametrize("form", range(5))
def test_a_table_trains_the_same_bits_as_its_folder(folder, form):
    expected = take(open_source(f"folder:{folder}", "train"))
    text, name, query = list(variants(folder))[form]
    source = open_source(write(folder, text, name) + query, "train")
    assert source.label_names == ["cat", "dog"]
    same(take(source), expected)


def test_slices_are_those_of_the_folder(folder):
    spec = write(folder, csv_of(folder))
    for split in ("train[:60%]", "train[60%:]", "all"):
        table, plain = open_source(spec, split), open_source(f"folder:{folder}", split)
        assert list(table.files) == list(plain.files)
        np.testing.assert_array_equal(table.targets, plain.targets)
        assert table.fingerprint() == plain.fingerprint()


def test_going_on_and_sharing_batches_are_exact(folder):
    source = open_source(write(folder, csv_of(folder)), "train")
    whole = take(source, 6)
    late = take(open_source(write(folder, csv_of(folder)), "train"), 3, start_step=3)
    same({name: value[3:] for name, value in whole.items()}, late)
    halves = [take(source, 6, rows=np.arange(i * 4, i * 4 + 4)) for i in range(2)]
    same({name: np.concatenate([h[name] for h in halves], 1) for name in whole}, whole)


@pytest.mark.parametrize("change", ["pixels", "label", "order", "name"])
def test_a_change_of_content_changes_the_fingerprint(folder, change):
    text = csv_of(folder)
    before = open_source(write(folder, text), "train").fingerprint()
    assert open_source(write(folder, text), "train").fingerprint() == before
    if change == "pixels":
        (folder / "cat" / "3.jpg").write_bytes((folder / "cat" / "4.jpg").read_bytes() + b"0")
    elif change == "label":
        text = text.replace("cat/3.jpg,cat", "cat/3.jpg,dog")
    elif change == "order":
        lines = text.splitlines()
        text = "\n".join([lines[0], *reversed(lines[1:])])
    else:
        (folder / "cat" / "3.jpg").rename(folder / "cat" / "x.jpg")
        text = text.replace("cat/3.jpg", "cat/x.jpg")
    assert open_source(write(folder, text), "train").fingerprint() != before


def test_a_column_of_splits(folder):
    rows = [(p, c, "test" if "9" in p else "train") for p, c in rows_of(folder)]
    spec = write(folder, "\n".join(["path,label,split", *map(",".join, rows)]))
    assert [open_source(spec, split).size for split in ("train", "test", "all")] == [18, 2, 20]
    train, test = open_source(spec, "train"), open_source(spec, "test")
    assert train.shared(test) == 0 and train.shared(open_source(spec, "all")) == 18
    with pytest.raises(InputError, match=r"unknown split 'val' of csv:.*pets.csv"):
        open_source(spec, "val")


def test_the_split_of_a_table_without_such_a_column_is_in_its_name(folder):
    lines = csv_of(folder).splitlines()
    write(folder, "\n".join([lines[0], *lines[2:]]), "train.csv")
    write(folder, "\n".join(lines[:2]), "val.csv")
    spec = f"csv:{folder}/*.csv"
    assert [open_source(spec, part).size for part in ("train", "validation")] == [19, 1]


def test_metadata_of_an_image_folder_of_hugging_face(folder):
    expected = take(open_source(f"folder:{folder}", "train"))
    (folder / "train").mkdir()
    lines = []
    for path, label in rows_of(folder):
        name = path.replace("/", "-")
        (folder / path).rename(folder / "train" / name)
        lines.append(json.dumps(dict(file_name=name, label=label)))
    write(folder / "train", "\n".join(lines), "metadata.jsonl")
    same(take(open_source(f"hf:{folder}", "train")), expected)
    same(take(open_source(f"csv:{folder}/train/metadata.jsonl", "train")), expected)


def test_numbers_are_sorted_as_numbers(folder):
    names = ["10", "9", "2"]
    lines = [f"{path},{names[i % 3]}" for i, (path, _) in enumerate(rows_of(folder))]
    source = open_source(write(folder, "\n".join(["path,label", *lines])), "train")
    assert source.label_names == ["2", "9", "10"]
    np.testing.assert_array_equal(source.targets[:6], [2, 1, 0, 2, 1, 0])


SETS = [("b",), ("a", "c"), (), ("c", "b", "a")]
EXPECTED = np.array([[0, 1, 0], [1, 0, 1], [0, 0, 0], [1, 1, 1]], np.uint8)


@pytest.mark.parametrize("form", [";", " | ", " ", "columns", "json"])
def test_sets_of_classes(folder, form):
    rows = list(zip((path for path, _ in rows_of(folder)), SETS))
    name = "sets.csv"
    if form == "columns":
        lines = ["path,c,a,b"] + [
            f"{path},{','.join('01'[name in found] for name in 'cab')}" for path, found in rows
        ]
    elif form == "json":
        name = "sets.jsonl"
        lines = [json.dumps(dict(path=path, labels=list(found))) for path, found in rows]
    else:
        lines = ["path,labels", *(f"{path},{form.join(found)}" for path, found in rows)]
    spec = write(folder, "\n".join(lines), name)
    source = open_source(spec, "train", multi_label=True)
    assert source.label_names == ["a", "b", "c"]
    np.testing.assert_array_equal(source.labels(np.arange(4)), EXPECTED)
    if form in ("columns", "json"):
        with pytest.raises(InputError, match="set data.multi_label=True"):
            open_source(spec, "train")


def test_names_with_blanks_stay_whole_beside_semicolons(folder):
    paths = [path for path, _ in rows_of(folder)]
    text = f"path,labels\n{paths[0]},red fox; cat\n{paths[1]},cat\n"
    source = open_source(write(folder, text), "train", multi_label=True)
    assert source.label_names == ["cat", "red fox"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("path,kind\n", r"pets.csv has no rows below"),
        ("", "pets.csv is empty"),
        ("photo,label\ncat/1.jpg,cat", "no column path, .*; its columns are 'photo', 'label'"),
        ("path\ncat/1.jpg", r"no column label, class, target or labels; its columns are 'path'"),
        ("path,label,label\ncat/1.jpg,cat,cat", "has the column 'label' twice"),
        ("path,label\ncat/1.jpg,cat\ncat/1.jpg", "line 3 has 1 cells, the first line 2"),
        ("path,label\ncat/1.jpg,cat\n\ncat/no.jpg,cat", "line 4: cat/no.jpg: no such file"),
        ("path,label\ncat,cat", "line 2: cat: no such file"),
        ("path,label\ncat/1.jpg,cat\ncat/2.jpg,", "line 3 has no label"),
        ("path,label\n,cat", "line 2 has no path, but ''"),
        ('path,label\n"cat/1.jpg,cat', "line 2: unexpected end of data"),
        ("path,label\n../x.jpg,cat", "line 2 names '../x.jpg', outside the table's folder"),
        ("path,label\n/etc/passwd,cat", "line 2 names '/etc/passwd', outside the table's folder"),
        ("path,a,b\ncat/1.jpg,0,7", "column 'b' holds '7', where a column of a class holds 0 or 1"),
        (
            "path,label,split\ncat/1.jpg,cat,train\ncat/2.jpg,cow,test",
            "line 3 has the class 'cow', which is not among the 1 classes of train: cat",
        ),
        ("path,label,split\ncat/1.jpg,cat,", "line 2 has no split"),
    ],
)  # fmt: skip
def test_a_bad_table_is_refused_in_a_line(folder, text, message):
    spec = write(folder, text)
    with pytest.raises(InputError, match=message) as caught:
        open_source(spec, "all")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"path": "cat/1.jpg", "label": "cat"}\n{"path"', "line 2: JSONDecodeError"),
        ("[1, 2]", r"line 1 is \[1, 2\]; each line must be a JSON object"),
        ('{"path": "cat/1.jpg", "label": 1, "label": 2}', "it has label twice"),
        ('{"path": "cat/1.jpg", "label": 1.5}', "label 1.5 is neither a name nor a whole number"),
        ('{"path": 3, "label": 1}', "line 1 has no path, but 3"),
    ],
)
def test_bad_json_lines_are_refused_in_a_line(folder, text, message):
    with pytest.raises(InputError, match=message):
        open_source(write(folder, text, "pets.jsonl"), "train")


@pytest.mark.parametrize(
    "query, message",
    [
        ("?path=pth", "unknown column of .*pets.csv 'pth' .did you mean 'path'"),
        ("?lable=label", "unknown option of csv:.* 'lable' .did you mean 'label'"),
        ("?label=", "label is empty"),
    ],
)
def test_a_bad_option_is_refused(folder, query, message):
    with pytest.raises(InputError, match=message):
        open_source(write(folder, csv_of(folder)) + query, "train")
    with pytest.raises(InputError, match="no such file"):
        open_source(f"csv:{folder}/none.csv", "train")
    with pytest.raises(InputError, match="is a folder; name the files"):
        open_source(f"csv:{folder}", "train")


def test_files_elsewhere_need_follow_links(folder, tmp_path):
    (tmp_path / "tables").mkdir()
    text = "\n".join(["path,label", *(f"{folder}/{p},{c}" for p, c in rows_of(folder))])
    spec = write(tmp_path / "tables", text)
    with pytest.raises(InputError, match="data.follow_links=True reads it"):
        open_source(spec, "train")
    expected = take(open_source(f"folder:{folder}", "train"))
    same(take(open_source(spec, "train", follow_links=True)), expected)
    # Absolute paths below the table's folder, and a link that leaves it.
    same(take(open_source(write(folder, text), "train")), expected)
    (tmp_path / "tables" / "x.jpg").symlink_to(folder / "cat" / "1.jpg")
    linked = write(tmp_path / "tables", "path,label\nx.jpg,cat", "linked.csv")
    with pytest.raises(InputError, match="line 2: x.jpg is a link that leaves"):
        open_source(linked, "train")
    assert open_source(linked, "train", follow_links=True).size == 1


def test_a_kept_list_is_made_again_when_a_file_disappears(folder, monkeypatch):
    monkeypatch.setattr(cache, "SMALL", 1)
    spec = write(folder, csv_of(folder))
    first = open_source(spec, "train")
    assert list((folder / ".vit_jax").glob("files-*.npz"))
    assert open_source(spec, "train").fingerprint() == first.fingerprint()
    (folder / "dog" / "3.jpg").unlink()
    with pytest.raises(InputError, match="line 15: dog/3.jpg: no such file"):
        open_source(spec, "train")


def test_a_file_that_disappears_later_is_unreadable(folder):
    source = open_source(write(folder, csv_of(folder)), "train")
    (folder / "dog" / "3.jpg").unlink()
    batches = train_batches(source, parse(PP), batch_size=20, seed=0)
    assert next(batches)["image"].shape == (20, 12, 12, 3) and batches.skipped == 1
    batches.close()


def test_a_table_in_a_mixture(folder):
    spec = write(folder, csv_of(folder))
    source = open_source(f"mix:{spec}?label=label*0.5+folder:{folder}*0.5", "train")
    assert source.size == 40 and source.label_names == ["cat", "dog"]
