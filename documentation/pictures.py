"""The pictures of the README: `python -m documentation.pictures URL`, the address of a service with a finished job."""

from __future__ import annotations

import sys
import urllib.request
from pathlib import Path

from playwright.sync_api import sync_playwright

PICTURES = Path(__file__).parents[1] / "docs/images"


def take(url: str) -> None:
    """Write `page.png`, the list of jobs as a person sees it, and `frontier.svg`, a chart of its newest job."""
    PICTURES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1000, "height": 420})
        page.goto(f"{url}/", timeout=120_000)
        page.screenshot(path=PICTURES / "page.png")
        newest = page.request.get(f"{url}/v1/jobs?limit=1").json()["jobs"][0]["id"]
        browser.close()
    with urllib.request.urlopen(f"{url}/v1/jobs/{newest}/charts/frontier.svg", timeout=120) as answer:  # noqa: S310
        (PICTURES / "frontier.svg").write_bytes(answer.read())


if __name__ == "__main__":
    take(sys.argv[1])
