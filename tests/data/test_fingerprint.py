import numpy as np
import pytest
from PIL import Image

from vit_jax.data import check_unchanged, open_source
from vit_jax.errors import InputError


def test_the_same_source_has_the_same_fingerprint(folder):
    for spec in ("digits", f"folder:{folder}", f"mix:digits*1+folder:{folder}*1"):
        first, second = (open_source(spec, "train[:50%]").fingerprint() for _ in range(2))
        assert first == second and first["size"] > 0
        check_unchanged(open_source(spec, "train[:50%]"), first, "then")


def test_a_folder_does_not_depend_on_where_it_lies(folder, tmp_path):
    before = open_source(f"folder:{folder}", "train").fingerprint()
    folder.rename(tmp_path / "elsewhere")
    assert open_source(f"folder:{tmp_path / 'elsewhere'}", "train").fingerprint() == before


@pytest.mark.parametrize("change", ["shrink", "rename", "rewrite", "relabel"])
def test_a_change_is_noticed(folder, change):
    before = open_source(f"folder:{folder}", "train").fingerprint()
    path = folder / "cat" / "3.jpg"
    if change == "shrink":
        path.unlink()
    elif change == "rename":
        path.rename(folder / "cat" / "x.jpg")
    elif change == "rewrite":
        Image.new("RGB", (50, 40)).save(path)
    else:
        path.rename(folder / "dog" / "3 .jpg")
    message = "has 19 examples, had 20" if change == "shrink" else "has changed"
    with pytest.raises(InputError, match=f"{message} since the run began"):
        check_unchanged(open_source(f"folder:{folder}", "train"), before, "the run began")


def test_pixels_in_memory_count(tmp_path):
    images = np.zeros((3, 4, 4), np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(3))
    before = open_source(f"npz:{tmp_path}/a.npz", "train").fingerprint()
    images[1, 2, 3] = 1
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(3))
    assert open_source(f"npz:{tmp_path}/a.npz", "train").fingerprint() != before
