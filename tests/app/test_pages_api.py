from __future__ import annotations

import re


def test_every_call_is_on_the_page_and_nothing_comes_from_elsewhere(server):
    answer = server.client.get("/docs")
    assert answer.headers["content-type"].startswith("text/html")
    document = server.client.get("/openapi.json").json()
    calls = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert set(re.findall(r"<summary><code>([^<]+)</code>", answer.text)) == calls
    assert not re.search(r'(src|href)="(https?:)?//', answer.text)


def test_parameters_and_members_of_bodies_are_named(server):
    text = server.client.get("/docs").text
    for words in (
        "Idempotency-Key",
        "next_cursor",
        "dataset_id",
        "Body: multipart/form-data",
        "query, JobState or null",
    ):
        assert words in text, words
