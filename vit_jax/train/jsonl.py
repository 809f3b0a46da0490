"""Files of one JSON object a line that survive a kill at any moment."""

import json
from pathlib import Path
from typing import Any


def read(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file, [] where there is none; what a kill has torn is left out."""
    lines = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            value = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(value, dict):
            lines.append(value)
    return lines


def replace(path: Path, lines: list[dict[str, Any]]) -> None:
    """Rewrites a file in one atomic step."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
    temporary.replace(path)
