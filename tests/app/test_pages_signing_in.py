"""Signing in: the way there and back, and the cookie."""

from __future__ import annotations

import httpx
import pytest

from tests.app.conftest import RunningServer, make_key

HTML = {"Accept": "text/html"}


@pytest.fixture
def locked(serve, settings) -> RunningServer:
    """A service that asks for keys."""
    return serve(settings.model_copy(update={"auth": "keys"}))


def _way(answer: httpx.Response, header: str) -> str:
    """Where signing in leads to."""
    address = httpx.URL(answer.headers[header])
    assert address.path == "/sign-in"
    return address.params["to"]


@pytest.mark.parametrize("page", ["/", "/new?from=x", "/compare?job=a&job=b", "/?name=a%26b%20c"])
def test_whoever_signs_in_comes_back_to_the_page(locked, page):
    answer = locked.client.get(page, headers=HTML)
    assert answer.status_code == 303
    assert _way(answer, "location") == page
    form = {"to": page, "key": make_key(locked.sessions, "one")}
    assert locked.client.post("/sign-in", data=form).headers["location"] == page


def test_a_part_of_a_page_leads_back_to_the_whole(locked):
    def way(shown: str) -> str:
        asked = {"HX-Request": "true", "HX-Current-URL": shown}
        answer = locked.client.get("/jobs-active?job=x", headers=asked)
        assert answer.status_code == 204
        return _way(answer, "hx-redirect")

    here = f"http://127.0.0.1:{locked.port}"
    assert way(f"{here}/?name=first&cursor=y#line") == "/?name=first&cursor=y"
    assert way(f"{here}/new") == "/new"
    for elsewhere in ("https://other.test/new", "http://[", ""):
        assert way(elsewhere) == "/"


def test_what_changes_something_is_not_repeated(locked):
    assert _way(locked.client.post("/jobs/x/cancel", headers=HTML), "location") == "/"


@pytest.mark.parametrize(
    ("forwarded", "secure"),
    [(None, False), ("https", True), ("https,http", True), ("HTTPS, http", True), ("http", False)],
)
def test_over_tls_the_cookie_goes_nowhere_else(locked, forwarded, secure):
    headers = {} if forwarded is None else {"X-Forwarded-Proto": forwarded}
    answer = locked.client.post("/sign-in", data={"key": make_key(locked.sessions, "one")}, headers=headers)
    assert answer.status_code == 303
    cookie = answer.headers["set-cookie"].lower()
    assert ("secure" in cookie, "httponly" in cookie, "samesite=strict" in cookie) == (secure, True, True)
