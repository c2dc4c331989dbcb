"""A headless Chromium for tests, driven by chromedriver's W3C HTTP interface and the standard library alone."""

import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-sync", "--disable-dev-shm-usage",
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--force-color-profile=srgb",
)  # fmt: skip
# A test must not ask a proxy of the surroundings for a server on this machine.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Page:
    """One open tab."""

    session: str

    def open(self, url: str) -> None:
        call(f"{self.session}/url", {"url": url})

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript function body."""
        return call(f"{self.session}/execute/sync", {"script": script, "args": []})

    def console(self) -> list[str]:
        """Messages of the console since the last call, the browser's own complaints included."""
        return [entry["message"] for entry in call(f"{self.session}/se/log", {"type": "browser"})]

    def requests(self) -> list[str]:
        """URLs asked for since the last call, those carried in the page itself (`data:`) left out."""
        entries = call(f"{self.session}/se/log", {"type": "performance"})
        events = [json.loads(entry["message"])["message"] for entry in entries]
        urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith("data:")]

    def screenshot(self, path: Path) -> None:
        """The whole page, below the fold included."""
        size = self.devtools("Page.getLayoutMetrics")["cssContentSize"]
        answer = self.devtools("Page.captureScreenshot", captureBeyondViewport=True, clip={**size, "scale": 1})
        path.write_bytes(base64.b64decode(answer["data"]))

    def devtools(self, command: str, **params: Any) -> Any:
        """One command of the DevTools protocol."""
        return call(f"{self.session}/goog/cdp/execute", {"cmd": command, "params": params})


@contextmanager
def browser(width: int, height: int, *, phone: bool = False, dark: bool = False) -> Iterator[Page]:
    """A fresh browser with a window of this size. Where there is none: skips the test, or fails it if CI is "true"."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:  # Chromium may still be writing to it
        options: dict[str, Any] = {"binary": _program("chromium"), "args": [*ARGUMENTS, f"--user-data-dir={profile}"]}
        if phone:
            options["mobileEmulation"] = {"deviceMetrics": {"width": width, "height": height, "pixelRatio": 2}}
        else:
            options["args"].append(f"--window-size={width},{height}")
        with _driver() as address:
            wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
            made = call(f"{address}/session", {"capabilities": {"alwaysMatch": wanted}})
            page = Page(f"{address}/session/{made['sessionId']}")
            try:
                media = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
                page.devtools("Emulation.setEmulatedMedia", features=media)
                page.open("about:blank")  # away from the browser's own start page, whose requests are not ours
                page.requests()
                yield page
            finally:
                call(page.session, None, "DELETE")  # ends the browser; the driver is ended by its handle


def call(url: str, body: Any, method: str = "POST") -> Any:
    """One command of the WebDriver protocol."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    with OPENER.open(request, timeout=120) as answer:
        return json.load(answer)["value"]


@contextmanager
def _driver() -> Iterator[str]:
    command = [_program("chromedriver"), "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout
            found = next((m for line in process.stdout if (m := re.search(r"successfully on port (\d+)", line))), None)
            assert found, "chromedriver ended before it listened"
            yield f"http://127.0.0.1:{found[1]}"
        finally:
            process.terminate()


def _program(name: str) -> str:
    found = shutil.which(name) or (shutil.which("google-chrome") if name == "chromium" else None)
    if found:
        return found
    reason = f"{name} is not installed (Debian: apt-get install chromium chromium-driver)"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def open_without_complaint(page: "Page", file: Path) -> None:
    """Show a page that loads nothing else, complains of nothing, fits its window, and has legible charts."""
    page.open(file.as_uri())
    assert page.requests() == [file.as_uri()]
    assert page.console() == []
    scroll, client = page.evaluate("const e = document.documentElement; return [e.scrollWidth, e.clientWidth]")
    assert scroll <= client
    texts = "return [...document.querySelectorAll('svg')].map(s => 11 * s.clientWidth / s.viewBox.baseVal.width)"
    assert min(page.evaluate(texts)) >= 11  # px, of the charts' 11 pt
