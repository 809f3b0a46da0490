"""Files of features: many rows, odd names, nothing left after an error."""

import os

import numpy as np
import pytest

from vit_jax.evaluate.embeddings import ROWS, open_embeddings

ODD = os.fsdecode(b"caf\xe9.png")  # no UTF-8


def read(file):
    if file.endswith(".npz"):
        with np.load(file) as found:
            return found["paths"].tolist(), found["embeddings"]
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(file)
    return table["path"].to_pylist(), np.array(table["embedding"].to_pylist(), np.float32)


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_rows_in_their_order(ending, tmp_path):
    count = 2 * ROWS + 5
    rows = np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32)
    names = [f"{i}.png" for i in range(count - 1)] + [ODD]
    file = str(tmp_path / f"x.{ending}")
    with open_embeddings(file) as writer:
        for name, row in zip(names, rows):
            writer.add(name, row)
    found, values = read(file)
    assert found == [*names[:-1], ODD if ending == "npz" else "caf\\xe9.png"]
    np.testing.assert_array_equal(values, rows)
    assert os.listdir(tmp_path) == [f"x.{ending}"]


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_without_images_the_file_is_empty(ending, tmp_path):
    file = str(tmp_path / f"x.{ending}")
    with open_embeddings(file):
        pass
    assert read(file)[0] == []


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_an_error_leaves_the_old_file(ending, tmp_path):
    file = tmp_path / f"x.{ending}"
    file.write_text("old")
    with pytest.raises(KeyboardInterrupt), open_embeddings(str(file)) as writer:
        writer.add("a.png", np.zeros(3))
        raise KeyboardInterrupt
    assert file.read_text() == "old" and os.listdir(tmp_path) == [file.name]
