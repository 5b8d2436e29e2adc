"""What a page from elsewhere can make a browser send is refused; what programs send is not."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from app.api.guard import LOOPBACK_NAMES, allowed_hosts
from app.settings import Settings

FOREIGN = [
    "http://evil.example",
    "null",
    "http://127.0.0.1",  # another port is another site
    "http://localhost:{port}",
    "http://127.0.0.1:{port}.evil.example",
    "http://user@127.0.0.1:{port}",
    "http://127.0.0.1:{port}/path",
    "chrome-extension://127.0.0.1:{port}",
    "http://127.0.0.1:99999999",
    "",
]


@pytest.mark.parametrize("origin", FOREIGN)
def test_a_form_of_a_foreign_page_makes_no_job(server: Any, origin: str) -> None:
    headers = {"Origin": origin.format(port=server.port)}
    answer = server.client.post("/v1/jobs", files={"model": b"model"}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "origin_refused")
    assert answer.headers["content-type"] == "application/problem+json"
    assert "without the header Origin; a proxy in between must pass Host on unchanged" in answer.json()["detail"]
    assert server.client.get("/v1/jobs").json()["jobs"] == []
    assert server.wakes == []


def test_every_call_that_changes_something_looks_at_the_origin(server: Any) -> None:
    job = server.submit()
    for method, path in [
        ("PUT", "/v1/models"),
        ("PUT", "/v1/datasets"),
        ("POST", f"/v1/jobs/{job['id']}/cancel"),
        ("POST", f"/v1/jobs/{job['id']}/replan"),
        ("BREW", "/v1/jobs"),
    ]:
        answer = server.client.request(method, path, content=b"{}", headers={"Origin": "http://evil.example"})
        assert (answer.status_code, answer.json()["code"]) == (403, "origin_refused")
    assert server.client.get(f"/v1/jobs/{job['id']}").json()["state"] == "queued"


def test_a_page_of_the_service_itself_may_change_things(server: Any) -> None:
    origin = {"Origin": f"http://127.0.0.1:{server.port}"}
    assert server.client.put("/v1/models", content=b"model", headers=origin).status_code == 201
    behind_tls = {"Origin": "https://localhost", "Host": "LOCALHOST:443"}
    assert server.client.put("/v1/models", content=b"model", headers=behind_tls).status_code == 200


def test_reading_needs_no_origin(server: Any) -> None:
    answer = server.client.get("/v1/jobs", headers={"Origin": "http://evil.example"})
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.", "a@b", "["]
)
def test_a_name_that_was_given_our_address_gets_no_answer(server: Any, host: str) -> None:
    answer = server.client.get("/v1/jobs", headers={"Host": host})
    assert (answer.status_code, answer.json()["code"]) == (421, "host_refused")
    assert "it answers to localhost, 127.0.0.1, ::1, with any port" in answer.json()["detail"]
    assert "BITBUDGET_ALLOWED_HOSTS" in answer.json()["detail"]
    assert 'status="421"' in server.client.get("/metrics").text


@pytest.mark.parametrize("host", ["localhost", "LocalHost:1", "127.0.0.1:9", "[::1]:8000", "[::1]"])
def test_this_machine_may_be_called_by_any_of_its_names(server: Any, host: str) -> None:
    assert server.client.get("/v1/jobs", headers={"Host": host}).status_code == 200


def test_names_may_be_added(serve: Callable[..., Any], settings: Settings) -> None:
    server = serve(settings.model_copy(update={"allowed_hosts": "bits.example, 10.0.0.5,[FD00::5]"}))
    for host in ("bits.example", "BITS.example:443", "10.0.0.5:1", "[fd00::5]:1", "localhost:8000"):
        assert server.client.get("/v1/jobs", headers={"Host": host}).status_code == 200
    assert server.client.get("/v1/jobs", headers={"Host": "www.bits.example"}).status_code == 421


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({}, LOOPBACK_NAMES),
        ({"host": "localhost"}, LOOPBACK_NAMES),
        ({"host": "::1"}, LOOPBACK_NAMES),
        ({"host": "127.1.2.3"}, LOOPBACK_NAMES),
        ({"host": "0.0.0.0"}, None),
        ({"host": "bits.example"}, None),
        ({"allowed_hosts": "*"}, None),
        ({"host": "0.0.0.0", "allowed_hosts": "Bits.example"}, (*LOOPBACK_NAMES, "bits.example")),
    ],
)
def test_the_default_depends_on_the_address(tmp_path: Any, members: dict[str, Any], expected: Any) -> None:
    assert allowed_hosts(Settings(home=tmp_path, **members)) == expected


def test_a_large_body_is_refused_before_it_is_read(server: Any) -> None:
    done = subprocess.run(
        [
            *(
                "curl",
                "-sS",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code} %{size_upload}",
                "-H",
                "Origin: http://evil.example",
            ),
            *("-H", "Expect: 100-continue", "-H", "Content-Type: application/octet-stream", "-T", "/usr/bin/env"),
            f"http://127.0.0.1:{server.port}/v1/models",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "403 0"
