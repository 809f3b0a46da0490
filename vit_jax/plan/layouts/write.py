"""A config file with the layout that a search found."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vit_jax.config_files import SHIPPED
from vit_jax.files import expand, write_atomic

_TEXT = '''"""A layout that `vit_jax plan --search` found for {place}: {found}.

  vit_jax train --config={file} --workdir=...
"""

from ml_collections import ConfigDict

from vit_jax import load_config

BASE = {base!r}
OVERRIDES = {overrides!r}
LAYOUT = {layout}


def get_config() -> ConfigDict:
    """The config of BASE with OVERRIDES and LAYOUT."""
    config = load_config(BASE, OVERRIDES)
    config.update_from_flattened_dict(LAYOUT)
    return config
'''


def write_config(
    path: str,
    *,
    base: str,
    overrides: Sequence[str],
    layout: Mapping[str, Any],
    place: str,
    found: str,
) -> None:
    """Writes a config file that `--config=` reads.

    Args:
      path: path of the file.
      base: config that it starts from, "FILE[:ARG]".
      overrides: the command line's overrides, "--config.a.b=VALUE".
      layout: options of the layout, by full name.
      place: the devices, in a few words.
      found: the prediction, in a few words.

    Raises:
      OSError: it cannot be written.
    """
    lines = "".join(f"    {name!r}: {value!r},\n" for name, value in layout.items())
    text = _TEXT.format(
        place=place,
        found=found,
        file=Path(path).name,
        base=_lasting(base),
        overrides=list(overrides),
        layout=f"{{\n{lines}}}",
    )
    write_atomic(Path(path), text)


def _lasting(spec: str) -> str:
    """A config's name that is right from any folder."""
    file, colon, arg = spec.partition(":")
    path = expand(file)
    whole = path.resolve()
    if not path.exists() or whole.is_relative_to(SHIPPED.resolve()):
        return spec
    return f"{whole}{colon}{arg}"
