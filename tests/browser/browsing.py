"""Chromium without a window, and what is asked of every page: no error, nothing from elsewhere, usable by everybody."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

AXE = Path(__file__).parent / "assets" / "axe.min.js"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE_MS = 120_000
"""For whatever a page waits for: the machine may be busy."""


@dataclass(frozen=True, slots=True)
class View:
    """How somebody looks at a page."""

    width: int = 1280
    scheme: Literal["light", "dark"] = "light"

    def __str__(self) -> str:
        return f"{self.width}-{self.scheme}"


VIEWS = [View(width, scheme) for width in (1280, 400) for scheme in ("light", "dark")]


def find_chromium() -> str | None:
    """The browser's program; None: there is none on this machine."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def chromium(program: str) -> Iterator[Browser]:
    """A browser for as long as the block runs."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@dataclass
class Watch:
    """What a page did that none may do: errors on its console or in its scripts, and requests to other origins."""

    origin: str
    console_errors: list[str] = field(default_factory=list)
    outside_requests: list[str] = field(default_factory=list)

    def follow(self, page: Page) -> None:
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.console_errors.append(f"{page.url}: {error}"))
        page.on("request", self._request)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.console_errors.append(f"{message.page.url if message.page else ''}: {message.text}")

    def _request(self, request: Request) -> None:
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob") and f"{address.scheme}://{address.netloc}" != self.origin:
            self.outside_requests.append(request.url)


@contextmanager
def opened(browser: Browser, url: str, view: View) -> Iterator[tuple[Page, Watch]]:
    """A page in a profile of its own, at no address yet; `url` is where relative addresses begin."""
    context = browser.new_context(
        base_url=url,
        viewport={"width": view.width, "height": 900},
        color_scheme=view.scheme,
        accept_downloads=True,
    )
    context.set_default_timeout(PATIENCE_MS)
    watch = Watch(url)
    context.on("page", watch.follow)
    try:
        yield context.new_page(), watch
    finally:
        context.close()


def violations(page: Page) -> list[str]:
    """What axe finds serious or critical in the page as it is now: the rule, what it asks for, and where."""
    page.evaluate(_axe())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{rule['id']}: {rule['help']}: {node['html'][:200]} {node.get('failureSummary', '')}"
        for rule in found["violations"]
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]


def wider_than_view(page: Page) -> int:
    """By how many pixels one has to scroll sideways to see the whole page."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


def assert_accessible(page: Page) -> None:
    """Fail if axe finds anything serious or critical, or the page is wider than its view."""
    assert violations(page) == []
    assert wider_than_view(page) == 0, f"{page.url} is wider than its view by {wider_than_view(page)} pixels"


@cache
def _axe() -> str:
    # As an expression of the debugger: the page's policy would let no script in.
    return AXE.read_text()
