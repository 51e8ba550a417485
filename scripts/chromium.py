"""Debian's Chromium, headless, for the pictures in docs/ and for the tests of the report's page."""

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


def find_missing() -> str | None:
    """The programs that are not installed, with the command that installs them; None where all are."""
    missing = [program for program in ("chromium", "chromedriver") if shutil.which(program) is None]
    return f"no {' and no '.join(missing)}: apt-get install chromium chromium-driver" if missing else None


@contextmanager
def start_browser() -> Iterator[Chrome]:
    """A browser that logs every request and every console message."""
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    arguments = ["--headless=new", "--hide-scrollbars", "--force-device-scale-factor=1", "--disable-dev-shm-usage"]
    if os.geteuid() == 0:  # Chromium has no sandbox for root
        arguments.append("--no-sandbox")
    for argument in arguments:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = Chrome(options=options, service=ChromeService(shutil.which("chromedriver")))
    try:
        yield browser
    finally:
        browser.quit()


def open_page(browser: Chrome, page: Path, width: int, height: int, scheme: Scheme) -> None:
    """Open a page in a window of this size in CSS pixels, with this preferred color scheme."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    preference = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "screen", "features": preference})
    browser.get(page.resolve().as_uri())


def read_requests(browser: Chrome) -> list[str]:
    """Addresses requested since the last call, without data: URLs."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [
        message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"
    ]
    return [address for address in sent if not address.startswith("data:")]


def read_console(browser: Chrome) -> list[dict[str, Any]]:
    """Console messages since the last call."""
    entries: list[dict[str, Any]] = browser.get_log("browser")
    return entries
