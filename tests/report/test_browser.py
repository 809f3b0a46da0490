"""The page in a real browser: nothing in its console, nothing asked for, pictures, both schemes."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vit_jax.cli.main import main

spec = importlib.util.spec_from_file_location("chromium", Path(__file__).with_name("chromium.py"))
chromium = importlib.util.module_from_spec(spec)
spec.loader.exec_module(chromium)

pytestmark = pytest.mark.skipif(
    chromium.program() is None, reason="no Chromium here: apt-get install chromium"
)
IMAGES = "[...document.images].map(i => i.complete && i.naturalWidth)"


@pytest.fixture(scope="module")
def page():
    with chromium.browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def html(finished, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    assert main(["report", str(finished), f"--output={path}"]) == 0
    return path


def test_the_page_loads_without_a_message_or_a_request(page, html):
    page.open(html)
    assert page.messages == []
    # The file itself, and pictures that it holds.
    assert page.requests[0].startswith("file:")
    assert all(url.startswith("data:") for url in page.requests[1:])


def test_a_message_and_a_request_would_be_seen(page, html, tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text(html.read_text().replace("<main>", "<main><img src=missing.png>"))
    page.open(bad)
    assert any("missing.png" in message for message in page.messages)  # refused by the page itself


def test_every_picture_is_there(page, html):
    page.open(html)
    widths = page.value(IMAGES)
    assert len(widths) >= 2 * 6  # six pairs of attention
    assert all(width and width > 0 for width in widths)


def test_names_of_classes_do_nothing(page, html):
    page.open(html)
    assert page.value("document.title") == "one – vit_jax"
    assert page.value("document.body.innerText.includes('<script>document.title=2;')")


def test_dark_and_light_differ_and_both_can_be_read(page, html, tmp_path):
    seen = {}
    for dark in (False, True):
        page.open(html, dark=dark)
        page.screenshot(tmp_path / "page.png")
        pixels = np.asarray(Image.open(tmp_path / "page.png").convert("L"), np.float64)
        seen[dark] = np.median(pixels)
        for selector in ("body", "h2", ".soft", "td", "code", ".chip"):
            style = f"getComputedStyle(document.querySelector({selector!r}))"
            colour = numbers(page.value(f"{style}.color"))
            card = page.value("getComputedStyle(document.querySelector('.card')).backgroundColor")
            # The least contrast of text by WCAG 2, level AA.
            assert contrast(colour, numbers(card)) >= 4.5, (selector, dark)
    assert seen[False] > 200 and seen[True] < 60


def test_it_fits_a_phone(page, html):
    page.open(html, width=375, height=700, mobile=True)
    assert page.value("document.documentElement.scrollWidth") <= 375
    assert page.value("document.querySelector('.plot').getBoundingClientRect().width") > 200


def test_pointing_at_a_curve_shows_its_values(page, html):
    page.open(html)
    box = page.value(
        "(() => { const box = document.querySelector('.plot').getBoundingClientRect();"
        " return [box.right - 2, box.top + 20]; })()"
    )
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])
    text = page.value("document.querySelector('.plot .tip').innerText")
    assert text.startswith("step 12\n") and "train/loss: " in text
    assert page.messages == []


def numbers(colour):
    return [int(part) for part in re.findall(r"\d+", colour)[:3]]


def contrast(one, other):
    """The contrast ratio of two colours (WCAG 2.2, relative luminance)."""

    def luminance(colour):
        parts = np.array(colour) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
