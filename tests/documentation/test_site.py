"""The site as `make docs` builds it: whole, searchable, and without a word from elsewhere."""

from __future__ import annotations

import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from documentation.links import broken_links, outside_requests
from documentation.site import SHIM, build

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (Path(sys.executable).with_name("zensical")).exists():
        pytest.skip("zensical is not installed: it needs Python 3.11.5 or newer")
    root = tmp_path_factory.mktemp("docs")
    for name in ("docs", "README.md", "CHANGELOG.md", "zensical.toml"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, root / name)
    return build(root)


def test_every_link_leads_somewhere_and_nothing_comes_from_elsewhere(site: Path) -> None:
    assert broken_links(site) == []
    assert outside_requests(site) == []


def test_every_page_can_be_found_by_search(site: Path) -> None:
    index = (site / "search.js").read_text()
    assert '"location":"guides/decoder.html"' in index
    assert '"location":"reference.html' in index
    assert (site / "assets/javascripts" / SHIM).exists()


def _files(nav: list[dict[str, Any]]) -> set[str]:
    found: set[str] = set()
    for entry in nav:
        for target in entry.values():
            found |= {target} if isinstance(target, str) else _files(target)
    return found


def test_every_page_is_in_the_navigation() -> None:
    nav = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert _files(nav) == pages | {"index.md", "changelog.md", "reference.md"}


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<a href="gone.html">x</a>', "gone.html: no such file"),
        ('<a href="other.html#gone">x</a>', "other.html#gone: no such place"),
        ('<a href="#gone">x</a>', "#gone: no such place"),
        ('<img src="gone.png">', "gone.png: no such file"),
        ('<a href="other.html#here">x</a><a href="https://example.com/">y</a>', None),
    ],
)
def test_a_broken_link_is_seen(tmp_path: Path, body: str, fault: str | None) -> None:
    (tmp_path / "page.html").write_text(body)
    (tmp_path / "other.html").write_text('<h2 id="here">x</h2>')
    assert broken_links(tmp_path) == ([] if fault is None else [f"page.html links to {fault}"])


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://example.com/x.js"></script>',
        '<script src="//example.com/x.js"></script>',
        '<link rel="stylesheet" href="https://example.com/x.css">',
        '<img srcset="https://example.com/x.png 2x">',
    ],
)
def test_a_page_that_loads_from_elsewhere_is_seen(tmp_path: Path, text: str) -> None:
    (tmp_path / "page.html").write_text(text)
    (fault,) = outside_requests(tmp_path)
    assert "example.com" in fault


def test_a_style_sheet_that_loads_from_elsewhere_is_seen(tmp_path: Path) -> None:
    (tmp_path / "x.css").write_text(
        "@import 'https://example.com/a.css'; a { background: url(data:image/png;base64,x) }"
    )
    assert outside_requests(tmp_path) == ["x.css loads https://example.com/a.css"]
