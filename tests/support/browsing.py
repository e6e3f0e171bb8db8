"""A headless Chromium for tests: it reads pages from disk and remembers what the console and the network said."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["DESKTOP", "PHONE", "Browser", "browser", "missing"]

DESKTOP, PHONE = (1280, 900), (390, 844)


def missing() -> str | None:
    """Why there is no browser here; None where there is one."""
    try:
        import selenium  # noqa: F401 -- whether it is there
    except ImportError:
        return "selenium is not installed"
    return None if _programs() else "no Chromium with its chromedriver on the PATH"


def _programs() -> tuple[str, str] | None:
    chrome = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    return (chrome, driver) if chrome and driver else None


class Browser:
    """A started Chromium; another takes its place where it stops painting, as a headless one does now and then."""

    def __init__(self, start: Callable[[], Any]) -> None:
        self._start = start
        self.driver = start()

    def open(self, path: Path, size: tuple[int, int] = DESKTOP, *, dark: bool = False) -> None:
        width, height = size
        self._reopen = lambda: self.open(path, size, dark=dark)
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == PHONE},
        )
        scheme = "dark" if dark else "light"
        self.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        self.driver.get(path.resolve().as_uri())

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def draw_all(self) -> int:
        """Scroll through the page until every figure is drawn; how many there are."""
        for _ in range(3):
            drawn = self._drawn()
            if drawn is not None:
                return drawn
            self.driver.quit()
            self.driver = self._start()
            self._reopen()
        msg = f"Chromium paints no frame: {self.console()}"
        raise AssertionError(msg)

    def _drawn(self) -> int | None:
        """How many figures were drawn; None where the browser has stopped painting: a page sees nothing then."""
        figures = self.js("return document.querySelectorAll('.figure').length")
        shown = (  # again and again: what is drawn above may push it out of sight before the page has seen it there
            "const figure = document.querySelectorAll('.figure')[arguments[0]];"
            "figure.scrollIntoView(); return !!figure.querySelector('.main-svg')"
        )
        frame = (
            "return new Promise(done => { setTimeout(() => done(false), 20000);"
            "requestAnimationFrame(() => done(true)); })"
        )
        for index in range(figures):
            end = time.monotonic() + 200
            while not self.js(shown, index):
                if not self.js(frame):
                    return None
                assert time.monotonic() < end, f"figure {index} is not drawn; the console says {self.console()}"
                time.sleep(0.1)
        self.js("window.scrollTo(0, 0)")
        return int(figures)

    def shot(self, path: Path, *, whole: bool = False) -> None:
        """A picture of the first screen, or of the whole page."""
        import base64

        options: dict[str, Any] = {"format": "png", "captureBeyondViewport": whole}
        if whole:
            size = self.js("return [document.documentElement.clientWidth, document.documentElement.scrollHeight]")
            options["clip"] = {"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1}
        path.write_bytes(base64.b64decode(self.driver.execute_cdp_cmd("Page.captureScreenshot", options)["data"]))

    def console(self) -> list[str]:
        """What the console said that is an error or a warning, since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Every address that was asked for, since the last call."""
        messages = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


def _started(start: Callable[[], Any]) -> Any:
    """The browser; another try where a busy machine kept it from coming up, or somebody took chromedriver's port."""
    from selenium.common.exceptions import WebDriverException

    for _ in range(3):
        with contextlib.suppress(WebDriverException):
            return start()
    return start()


@contextlib.contextmanager
def browser(downloads: Path) -> Iterator[Browser]:
    from selenium import webdriver

    programs = _programs()
    assert programs is not None, missing()
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        "--force-color-profile=srgb",
    ):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})

    def start() -> Any:
        driver = _started(lambda: webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1])))
        driver.set_script_timeout(200)
        return driver

    held = Browser(start)
    try:
        yield held
    finally:
        held.driver.quit()
