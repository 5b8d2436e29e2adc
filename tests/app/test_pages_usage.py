"""The page of usage, keys, webhooks and the audit log, without a browser."""

from __future__ import annotations

import re
from typing import Any

import httpx

HTML = {"Accept": "text/html"}
HOSTILE = "<script>alert(1)</script>"


def page(client: httpx.Client, address: str = "/usage") -> str:
    answer = client.get(address, headers=HTML)
    assert answer.status_code == 200, answer.text
    return answer.text


def test_what_is_used_stands_beside_the_quotas(serve, settings):
    quotas: dict[str, Any] = {"quota_bytes": 10_000, "quota_queued": 3, "quota_requests_per_minute": 1000}
    server = serve(settings.model_copy(update=quotas))
    server.submit()
    server.client.put("/v1/models", content=b"x" * 1000)
    text = page(server.client)
    meters = dict(re.findall(r'<meter id="(\w+)"[^>]* value="(\d+)"', text))
    assert meters.keys() == {"bytes", "queued", "requests"}
    assert (meters["queued"], int(meters["bytes"]) >= 1000) == ("1", True)
    assert "1 of 3" in text
    assert re.search(r'<output id="running">0, no limit', text)


def test_without_keys_the_page_says_so(server):
    text = page(server.client)
    assert "asks for no keys" in text
    assert "Make a key" not in text


def test_a_key_is_made_shown_once_and_revoked(serve, settings):
    server = serve(settings.model_copy(update={"auth": "keys"}))
    with server.as_key("one") as admin:
        made = admin.post("/usage/keys", data={"role": "viewer", "label": HOSTILE, "expires_in_days": "7"})
        assert made.headers["cache-control"] == "no-store"
        assert HOSTILE not in made.text
        key = re.search(r"bb_([0-9a-f]{12})_[0-9a-f]{48}", made.text)
        assert key
        assert key[0] not in page(admin)
        signed = {"Cookie": f"bitbudget_key={key[0]}"}
        with httpx.Client(base_url=str(admin.base_url), headers=signed) as viewer:
            text = page(viewer)
            assert "Project one" in text
            assert "Who did what" not in text
            assert viewer.post("/usage/keys", data={"role": "admin"}).status_code == 403
            assert admin.post(f"/usage/keys/{key[1]}/revoke").status_code == 303
            assert viewer.get("/usage", headers=HTML).headers["location"].startswith("/sign-in")
        assert "revoked just now" in page(admin)
        assert admin.post("/usage/keys", data={"role": "king"}, headers=HTML).status_code == 422


def test_webhooks_are_added_tested_and_removed(serve, settings):
    server = serve(settings.model_copy(update={"webhook_timeout_seconds": 0.1, "dispatch_interval_seconds": 0.1}))
    form = {"url": "https://example.com/hook?<b>", "events": ["job.failed"]}
    added = server.client.post("/usage/webhooks", data=form, headers=HTML)
    assert added.status_code == 200, added.text
    secret = re.search(r"whsec_[A-Za-z0-9+/=]+", added.text)
    assert secret
    text = page(server.client)
    assert secret[0] not in text
    assert "https://example.com/hook?" in text
    assert "<b>" not in text
    assert "job.failed" in text
    (webhook,) = server.client.get("/v1/webhooks").json()["webhooks"]
    tested = server.client.post(f"/usage/webhooks/{webhook['id']}/test", headers=HTML)
    assert "no dispatcher has sent it yet" in tested.text
    assert server.client.post(f"/usage/webhooks/{webhook['id']}/delete").status_code == 303
    assert server.client.get("/v1/webhooks").json()["webhooks"] == []
    refused = server.client.post("/usage/webhooks", data={"url": "ftp://example.com"}, headers=HTML)
    assert refused.status_code == 422
    assert "url" in refused.text


def test_who_did_what_is_on_pages(server, monkeypatch):
    monkeypatch.setattr("app.pages.usage._ENTRIES", 2)
    for number in range(5):
        server.client.put("/v1/models", content=str(number).encode(), params={"name": f"n{number}"})
    shown, address = [], "/usage"
    while address:
        text = page(server.client, address)
        shown += re.findall(r"name: (n\d)", text)
        older = re.search(r'href="([^"]+)" rel="next"', text)
        address = older and older[1].replace("&amp;", "&").removesuffix("#audit")
    assert shown == ["n4", "n3", "n2", "n1", "n0"]
