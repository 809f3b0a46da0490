"""The documentation as a site: it builds without a warning, and has every page."""

import os
import re
import subprocess
import sys

import pytest

from tests.docs.blocks import ROOT

pytest.importorskip("mkdocs")


def test_the_site_builds_without_a_warning(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")],
        cwd=ROOT,
        env=dict(os.environ, NO_MKDOCS_2_WARNING="1"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr and "not included in the" not in done.stderr, done.stderr
    for page in ROOT.glob("docs/*.md"):
        place = "index.html" if page.stem == "index" else f"{page.stem}/index.html"
        assert (tmp_path / "site" / place).is_file()


def test_the_words_of_the_readme_lead_to_pages_that_exist():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"):
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if "://" not in target:
                assert (ROOT / target).exists(), f"{page.name} leads to {target}"
