"""The options behind the argument of a source: "pets.csv?path=photo&label=breed"."""

import urllib.parse
from collections.abc import Collection

from vit_jax.errors import InputError, unknown


def parse_query(text: str) -> tuple[str, dict[str, str]]:
    """Splits an argument from its options: ("pets.csv", {"path": "photo", "label": "breed"}).

    The options begin at the last question mark, and each is written NAME=VALUE, so that a
    question mark of a glob stays in the argument. "+" and "%20" in a value are blanks.
    """
    before, mark, query = text.rpartition("?")
    if not mark or "=" not in query:
        return text, {}
    return before, dict(urllib.parse.parse_qsl(query, keep_blank_values=True))


def parse_known(kind: str, text: str, known: Collection[str]) -> tuple[str, dict[str, str]]:
    """As `parse_query`, for options of the given names that are not empty.

    Args:
      kind: name of the source in messages, such as "csv".
      text: text after the colon of the source.
      known: names of the options.

    Raises:
      InputError: an unknown or empty option.
    """
    before, options = parse_query(text)
    for name, value in options.items():
        if name not in known:
            raise unknown(f"option of {kind}:{before}", name, known)
        if not value:
            raise InputError(f"{kind}:{text}: {name} is empty; write ?{name}=COLUMN")
    return before, options
