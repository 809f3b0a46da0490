"""Checks of JSON: what is refused, and that the message names the key."""

from typing import Any, NotRequired, TypedDict

import pytest

from vit_jax import schema
from vit_jax.errors import InputError


class Inner(TypedDict):
    sizes: list[int]


class Document(TypedDict):
    step: int
    share: NotRequired[float | None]
    inner: NotRequired[Inner]
    names: NotRequired[dict[str, str]]
    rest: NotRequired[Any]


@pytest.mark.parametrize(
    "content",
    [
        b'{"step": 3}',
        b'{"step": 3, "share": 1, "more": []}',
        b'{"step": 3, "share": null, "inner": {"sizes": [1, 2]}, "names": {"a": "b"}, "rest": {}}',
    ],
)
def test_what_fits_is_returned(content):
    assert schema.check(schema.parse(content), Document)["step"] == 3


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"[]", r"it is \[\], not an object"),
        (b"{}", "step is missing"),
        (b'{"step": true}', "step is True, not a whole number"),
        (b'{"step": 1.5}', "step is 1.5, not a whole number"),
        (b'{"step": 99999999999999999999}', "step is 9+, not a whole number"),
        (b'{"step": 1, "share": "x"}', "share is 'x', not a number"),
        (b'{"step": 1, "inner": {}}', r"inner\.sizes is missing"),
        (b'{"step": 1, "inner": {"sizes": [1, null]}}', r"inner\.sizes\[1\] is None, not a whole"),
        (b'{"step": 1, "names": {"a": 2}}', r"names\.a is 2, not a text"),
        (b'{"step": 1, "names": 7}', "names is 7, not an object"),
        (b'{"step": ' + b"[" * 200 + b"]" * 200 + b"}", r"step is \[+\.\.\., not a whole"),
        (b"\xff", "byte 0 is not UTF-8"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"step": 1' + b"0" * 5000 + b"}", "integer string conversion"),
        (b'{"step"', "Expecting"),
    ],
)
def test_what_does_not_fit_is_named(content, problem, tmp_path):
    with pytest.raises(ValueError, match=problem):
        schema.check(schema.parse(content), Document)
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"x\.json is damaged \(.*{problem}"):
        schema.read(tmp_path / "x.json", Document)


def test_a_directory_in_place_of_a_file(tmp_path):
    with pytest.raises(InputError, match="cannot read .*Is a directory"):
        schema.read(tmp_path, Document)
