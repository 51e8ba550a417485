"""Debian's Chromium without a window, for the pictures in docs/ and for the tests of the report's page."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

Scheme = Literal["light", "dark"]


def missing() -> str | None:
    """What is not installed here, with what installs it."""
    lacking = [program for program in ("chromium", "chromedriver") if shutil.which(program) is None]
    return f"no {' and no '.join(lacking)}: apt-get install chromium chromium-driver" if lacking else None


@contextmanager
def started() -> Iterator[Chrome]:
    """A browser that logs every request and every word on its console."""
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    words = ["--headless=new", "--hide-scrollbars", "--force-device-scale-factor=1", "--disable-dev-shm-usage"]
    if os.geteuid() == 0:  # Chromium has no sandbox for root
        words.append("--no-sandbox")
    for word in words:
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = Chrome(options=options, service=ChromeService(shutil.which("chromedriver")))
    try:
        yield browser
    finally:
        browser.quit()


def show(browser: Chrome, page: Path, width: int, height: int, scheme: Scheme) -> None:
    """Open a page in a window of so many CSS pixels, as a reader who prefers that scheme sees it."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    preference = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "screen", "features": preference})
    browser.get(page.resolve().as_uri())


def requests(browser: Chrome) -> list[str]:
    """Addresses that were asked for since the last call; data that the page brings along is none."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]
    return [address for address in sent if not address.startswith("data:")]


def console(browser: Chrome) -> list[dict[str, Any]]:
    """What was said on the console since the last call."""
    entries: list[dict[str, Any]] = browser.get_log("browser")
    return entries
