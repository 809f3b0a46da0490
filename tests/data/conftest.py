import io

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """A smooth colour picture, uint8 (60, 90, 3)."""
    noise = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    return np.asarray(Image.fromarray(noise).resize((90, 60), Image.BICUBIC))


@pytest.fixture(scope="session")
def encode():
    """encode(array or Pillow image, format, ...) -> bytes of a file."""

    def encode(image, format, **options) -> bytes:
        buffer = io.BytesIO()
        image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
        image.save(buffer, format, **options)
        return buffer.getvalue()

    return encode


@pytest.fixture
def folder(tmp_path):
    """Twenty JPEGs of two classes, 40x50."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(10):
            image = rng.integers(0, 256, (40, 50, 3), np.uint8)
            Image.fromarray(image).save(tmp_path / "pets" / name / f"{i}.jpg")
    return tmp_path / "pets"
