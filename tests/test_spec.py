"""Names with arguments: which arguments a text may give, and what is said of the others."""

import dataclasses
import functools
from typing import Any

import pytest

from vit_jax import spec
from vit_jax.errors import InputError
from vit_jax.models.vit_config import ViTConfig
from vit_jax.registry import Registry
from vit_jax.tasks import TASKS

THINGS: Registry[Any] = Registry("thing")


@THINGS.register("pair")
@dataclasses.dataclass(frozen=True)
class Pair:
    first: int
    second: int
    swap: bool = dataclasses.field(default=False, kw_only=True)
    own: Any = spec.internal()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pair(1, 2, 3)", "pair takes only first, second without a name; give others as swap=..."),
        ("pair", "give first and second, as in pair(first=..., second=...)"),
        ("pair(1)", "give second, as in pair(1, second=...)"),
        ("pair(1, second=2, second=3)", "gives second twice"),
        ("pair(1, 2, second=3)", "gives second twice"),
        ("pair(1, 2, own=3)", "unknown argument of option pair: 'own'; known: first, second, swap"),
        ("pair(1, nan)", "nan is no plain value; give a number"),
        ("pair(1, -nan)", "-nan is no plain value; give a number"),
        ("pair(*(1, 2))", "*(1, 2) is no plain value; give a number"),
        ("pair(1, **{'second': 2})", "**{'second': 2} is no plain value; give a number"),
        ("pair(1, " + "-" * 6000 + "2)", "is not understood; write a name"),
        (3, "option is 3; give a name in quotes"),
        ("pair(1, 2.5)", "second is 2.5; give a whole number"),
        ("pair(1, 2", "is not understood; write a name"),
        ("pear(1, 2)", "did you mean 'pair'?"),
    ],
)
def test_wrong_arguments_are_named(text, message):
    with pytest.raises(InputError) as raised:
        spec.create(THINGS, text, "option")
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_entries_that_are_no_function_or_class():
    parts: Registry[Any] = Registry("part")
    parts.add("half", functools.partial(Pair, 1), Pair)
    assert spec.create(parts, "half(2)", "option") == Pair(1, 2)


def test_arguments_reach_the_thing():
    assert spec.create(THINGS, "pair(1, second=2, swap=True)", "option") == Pair(1, 2, swap=True)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_no_text_gives_what_a_run_sets(name):
    arguments = {parameter.name for parameter in spec.arguments(TASKS[name])}
    assert not arguments & {"setting", "frozen", "teacher"}
    with pytest.raises(InputError, match="takes no arguments|unknown argument"):
        spec.create(TASKS, f"{name}(setting=3)", "config.task")


@pytest.mark.parametrize("text", ["local_2d(2, 2, 1, 50)", "local_2d(2, 2, 50, 1)"])
def test_the_largest_window_is_named(text):
    with pytest.raises(
        InputError, match="larger than the grid of 8x8 patches allows; give at most"
    ):
        ViTConfig(
            image_size=(32, 32), patch_size=(4, 4), width=8, depth=1, num_heads=1, mlp_dim=8,
            head="gap", num_classes=2, attention_kind=text,
        )  # fmt: skip
