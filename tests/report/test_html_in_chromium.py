"""The page in Chromium: no console output, no requests, no horizontal scroll, a visible verdict, a sortable table."""

import sys
from pathlib import Path

import pytest
from whole import whole

from deploykit.bundle import manifest as manifests
from deploykit.core.values import Records
from deploykit.report.bundle_document import Report, describe_bundle
from deploykit.report.html import page as pages

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))
import chromium

pytestmark = pytest.mark.skipif(chromium.find_missing() is not None, reason=str(chromium.find_missing()))

PHONE, DESKTOP = (390, 844), (1440, 900)


@pytest.fixture(scope="module")
def browser():
    with chromium.start_browser() as running:
        yield running


@pytest.fixture(scope="module")
def files(fp32_bundle, tmp_path_factory):
    """One bundle with everything and the longest names, the same bundle as it was exported, and the two compared."""
    manifest = manifests.read_manifest(fp32_bundle)
    full = whole(manifest, "a-name-" + "x" * 120)
    bare = describe_bundle("bare", manifest, Records())
    folder = tmp_path_factory.mktemp("pages")
    contents = {
        "full": pages.render_bundle(full),
        "bare": pages.render_bundle(bare),
        "together": pages.render_comparison(Report((full, bare))),
    }
    for name, content in contents.items():
        (folder / f"{name}.html").write_text(content, encoding="utf-8")
    return folder


@pytest.fixture(params=["full", "bare", "together"])
def page(request, files):
    return files / f"{request.param}.html"


def open_page(browser, page, window=DESKTOP, scheme="light"):
    chromium.read_console(browser)
    chromium.read_requests(browser)
    chromium.open_page(browser, page, *window, scheme)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_console_is_empty(browser, page, scheme):
    open_page(browser, page, scheme=scheme)
    assert chromium.read_console(browser) == []


def test_no_other_file_is_fetched(browser, page):
    open_page(browser, page)
    assert set(chromium.read_requests(browser)) == {page.resolve().as_uri()}


@pytest.mark.parametrize("window", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_does_not_scroll_horizontally(browser, page, window, scheme):
    open_page(browser, page, window, scheme)
    width = "return [document.documentElement.scrollWidth, document.body.scrollWidth, window.innerWidth]"
    assert browser.execute_script(width) == [window[0]] * 3


@pytest.mark.parametrize("window", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_the_verdict_is_visible_without_scrolling(browser, page, window):
    open_page(browser, page, window)
    box = browser.execute_script(
        "const box = document.getElementById('verdict').getBoundingClientRect(); return [box.top, box.bottom]"
    )
    assert 0 <= box[0] < box[1] < window[1]
    assert "PASSED" in browser.execute_script("return document.getElementById('verdict').innerText")


def test_drawings_follow_the_scheme(browser, files):
    colours = []
    for scheme in ("light", "dark"):
        open_page(browser, files / "full.html", scheme=scheme)
        colours.append(
            browser.execute_script("return getComputedStyle(document.querySelector('figure svg text')).fill")
        )
    assert colours[0] != colours[1]
    assert all(colour.startswith("rgb") for colour in colours)


def test_text_in_a_drawing_can_be_read_on_a_phone(browser, files):
    open_page(browser, files / "full.html", PHONE)
    heights = browser.execute_script(
        "return [...document.querySelectorAll('figure svg text')].map(text => parseFloat(text.style.fontSize) *"
        " text.ownerSVGElement.getBoundingClientRect().width / text.ownerSVGElement.viewBox.baseVal.width)"
    )
    assert heights
    assert min(heights) > 8


COLUMN = "return [...document.querySelectorAll('.sortable tbody tr')].map(row => row.cells[arguments[0]].dataset.value)"
STATE = "return [...document.querySelectorAll('.sortable th[aria-sort]')].map(head => head.getAttribute('aria-sort'))"


def button(browser, place):
    return browser.find_elements("css selector", ".sortable thead button")[place]


@pytest.mark.parametrize(("name", "place"), [("p50", 8), ("size", 11), ("backend", 3), ("#", 0)])
def test_a_click_sorts_by_a_column_and_a_second_click_reverses_the_order(browser, files, name, place):
    open_page(browser, files / "together.html")
    assert button(browser, place).text.startswith(name)
    for order in ("ascending", "descending") if place else ("descending", "ascending"):
        button(browser, place).click()
        values = browser.execute_script(COLUMN, place)
        known = [float(value) if name != "backend" else value for value in values]
        assert known == sorted(known, reverse=order == "descending")
        assert browser.execute_script(STATE)[place] == order
        assert browser.execute_script(STATE).count("none") == 11


def test_the_keyboard_sorts_too(browser, files):
    from selenium.webdriver.common.keys import Keys

    open_page(browser, files / "together.html")
    button(browser, 5).send_keys(Keys.ENTER)
    assert browser.execute_script(STATE)[5] == "ascending"


def test_rows_without_a_figure_sort_last_in_both_orders(browser, files):
    open_page(browser, files / "together.html")
    for _ in range(2):
        button(browser, 7).click()
        values = browser.execute_script(COLUMN, 7)
        assert values[0] != ""
        assert values[-1] == ""


def test_a_printed_page_is_black_on_white_in_every_colour_scheme(browser, files):
    open_page(browser, files / "full.html", scheme="dark")
    preference = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": preference})
    colours = browser.execute_script(
        "const style = getComputedStyle(document.body); return [style.backgroundColor, style.color]"
    )
    assert colours == ["rgb(255, 255, 255)", "rgb(27, 30, 35)"]
