"""Tiny models of timm with random parameters; the fixtures and the sweep need timm 1.0.31."""

import zlib

import numpy as np


def values(name, shape):
    """A parameter's values, by its name and shape."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    x = rng.standard_normal(shape).astype(np.float32)
    if len(shape) in (2, 4):
        return x * np.float32(np.prod(shape[1:]) ** -0.5)
    x = x * np.float32(0.3)
    return np.asarray(x + 1 if len(shape) == 1 and not name.endswith("bias") else x, np.float32)


def images(size):
    return np.random.default_rng(1).standard_normal((2, *size, 3)).astype(np.float32)


def create(architecture, arguments):
    """timm's model, and the shapes of its tensors."""
    import timm
    import torch

    model = timm.create_model(architecture, **arguments).eval()
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    state = {name: torch.from_numpy(values(name, shape)) for name, shape in shapes.items()}
    model.load_state_dict(state)
    return model, shapes


def logits(model, size):
    import torch

    with torch.no_grad():
        return model(torch.from_numpy(images(size)).permute(0, 3, 1, 2)).numpy()


def pair(size):
    return (size, size) if isinstance(size, int) else tuple(size)
