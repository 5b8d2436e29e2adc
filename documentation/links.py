"""What a built site links to and asks for: every link must lead to a page and a place in it, and no page may need
anything from another machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_LOADED = {
    ("script", "src"),
    ("img", "src"),
    ("source", "src"),
    ("iframe", "src"),
    ("video", "src"),
    ("audio", "src"),
    ("embed", "src"),
    ("object", "data"),
    ("img", "srcset"),
    ("source", "srcset"),
}
_LOADED_LINKS = {"stylesheet", "icon", "preload", "modulepreload", "prefetch", "preconnect", "dns-prefetch", "manifest"}
_CSS_ADDRESS = re.compile(r"(?:url\(\s*|@import\s+)['\"]?((?:https?:)?//[^'\")\s]+)")


class _Page(HTMLParser):
    """Links, places and loaded files of one page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if "id" in given:
            self.places.add(given["id"])
        if tag == "a" and "name" in given:
            self.places.add(given["name"])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        self.loaded += [value for name, value in given.items() if (tag, name) in _LOADED]
        if tag == "link" and _LOADED_LINKS & set(given.get("rel", "").split()):
            self.loaded.append(given.get("href", ""))


def _pages(site: Path) -> dict[Path, _Page]:
    pages = {}
    for path in sorted(site.rglob("*.html")):
        if path.name != "404.html":  # served at any address, so its links are absolute
            pages[path.resolve()] = page = _Page()
            page.feed(path.read_text())
    return pages


def broken_links(site: Path) -> list[str]:
    """One line for each link or file within the site that leads nowhere."""
    return list(_broken_links(_pages(site), site))


def _broken_links(pages: dict[Path, _Page], site: Path) -> Iterator[str]:
    for path, page in pages.items():
        for link in (*page.links, *page.loaded):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                yield f"{path.relative_to(site.resolve())} links to {link}: no such file"
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].places:
                yield f"{path.relative_to(site.resolve())} links to {link}: no such place"


def outside_requests(site: Path) -> list[str]:
    """One line for each file that a page or a style sheet would load from elsewhere."""
    faults = [
        f"{path.relative_to(site.resolve())} loads {address}"
        for path, page in _pages(site).items()
        for address in page.loaded
        if urlsplit(address).netloc
    ]
    for path in sorted(site.rglob("*.css")):
        faults += [f"{path.relative_to(site)} loads {address}" for address in _CSS_ADDRESS.findall(path.read_text())]
    return faults
