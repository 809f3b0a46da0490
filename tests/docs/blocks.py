"""The code blocks of README and docs, as commands and as Python."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("docs/results/*.md")),
]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
PROGRAMS = ("vit_jax", "python", "bash", "pip", "pytest")


def blocks(page: Path, *languages: str) -> Iterator[str]:
    """The code blocks of a page in these languages."""
    for language, text in _BLOCK.findall(page.read_text()):
        if language in languages:
            yield text


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each command of a page, of blocks in bash and of blocks without a language.

    Left out: what is elided ("...") or has variables of the shell, and what programs print.
    """
    for language, text in _BLOCK.findall(page.read_text()):
        for line in text.replace("\\\n", " ").splitlines() if language in ("bash", "") else ():
            for part in re.split(r"\s(?:&&|\|)\s|;\s", line):
                if part.startswith(tuple(f"{name} " for name in PROGRAMS)):
                    words = shlex.split(re.sub(r"\s>\s\S+", "", part), comments=True)
                    if not any("..." in word or "$" in word for word in words):
                        yield words
