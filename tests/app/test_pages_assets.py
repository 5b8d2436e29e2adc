"""The files of the pages: there at their addresses, and nothing else is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.pages.rendering import STATIC, assets


@pytest.fixture
def linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The pages are installed below a link."""
    link = tmp_path / "static"
    link.symlink_to(STATIC)
    for module in ("rendering", "assets"):
        monkeypatch.setattr(f"app.pages.{module}.STATIC", link)
    assets.cache_clear()
    yield
    assets.cache_clear()


def test_all_files_are_there_for_ever(server):
    assert {"bitbudget.css", "bitbudget.js", "licences/htmx.txt"} <= assets().keys()
    for name, address in assets().items():
        answer = server.client.get(address)
        assert answer.content == (STATIC / name).read_bytes()
        assert "immutable" in answer.headers["cache-control"]


@pytest.mark.usefixtures("linked")
def test_files_below_a_link_are_there(server):
    answer = server.client.get(assets()["bitbudget.css"])
    assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (200, "text/css")


def test_a_file_has_one_address(server):
    digest = assets()["bitbudget.css"].split("/")[2]
    names = ("licences/%2e%2e/bitbudget.css", "licences", "%2e%2e/rendering.py", "%00", "bitbudget.css%00")
    addresses = ["/static/000000000000/bitbudget.css", *(f"/static/{digest}/{name}" for name in names)]
    for address in addresses:
        answer = server.client.get(address)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), address
