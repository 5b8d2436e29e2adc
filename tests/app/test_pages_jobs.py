"""The list of jobs, without a browser: what it shows, filters and changes."""

from __future__ import annotations

import re
from typing import Any

import pytest

from app.pages.sparkline import HEIGHT, sparkline
from app.schemas.job_request import JobRequest
from app.store.jobs import add_event, lock_job

HOSTILE = "<script>alert(1)</script>"
HTML = {"Accept": "text/html"}


def page(server: Any, address: str = "/", **query: Any) -> str:
    answer = server.client.get(address, params=query or None, headers=HTML)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/html")
    text: str = answer.text
    return text


def listed(text: str) -> list[str]:
    """Ids of the jobs in their order."""
    return re.findall(r'name="job" value="([0-9a-f]{32})"', text)


def change(server: Any, job_id: str, **values: Any) -> None:
    with server.sessions.begin() as session:
        job = lock_job(session, job_id)
        for name, value in values.items():
            setattr(job, name, value)


def succeed(server: Any, job_id: str, drop: float = 0.0061) -> None:
    certificate = {"metric": "top1", "drop": drop, "max_drop": 0.01, "kind": "absolute", "claims": [{"unit": "share"}]}
    summary = {"float_size_bytes": 105_662, "size_bytes": 8_158, "certificate": certificate}
    change(server, job_id, state="succeeded", outcome="met", progress=1.0, summary=summary)


def test_an_empty_list_says_how_to_begin(server):
    text = page(server)
    assert "No job yet" in text
    assert 'href="/new"' in text


def test_a_line_shows_what_matters(server):
    job = server.submit(name="night run", tags=["b", "a"], model_id=server.upload_model(name="resnet"))
    succeed(server, job["id"])
    text = page(server)
    for words in ("night run", "resnet", "budget met", "106 kB → 8.16 kB", "13.0 times smaller"):
        assert words in text, words
    assert "0.61 points of 1.00 points" in text
    assert text.index('?tag=a"') < text.index('?tag=b"')


def test_names_from_elsewhere_are_text(server):
    server.submit(name=HOSTILE, tags=[HOSTILE], model_id=server.upload_model(name=HOSTILE))
    text = page(server)
    assert HOSTILE not in text
    assert "&lt;script&gt;" in text


def test_filters_narrow_the_list_and_stay_filled_in(server):
    other = server.upload_model(b"other", name="other")
    first = server.submit(name="first", tags=["x"])["id"]
    second = server.submit(name="second", model_id=other)["id"]
    succeed(server, second)
    assert listed(page(server)) == [second, first]
    assert listed(page(server, name="first")) == [first]
    assert listed(page(server, tag="x", state="")) == [first]
    assert listed(page(server, state="queued")) == [first]
    assert listed(page(server, outcome="met")) == [second]
    assert listed(page(server, upload_id=other)) == [second]
    text = page(server, model_id=other)
    assert listed(text) == [second]
    assert f'<option value="{other}" selected>' in text
    assert "No job fits" in page(server, name="third")
    refused = server.client.get("/?state=asleep", headers=HTML)
    assert refused.status_code == 422
    assert "state" in refused.text


def test_older_jobs_are_on_further_pages(server, monkeypatch):
    monkeypatch.setattr("app.pages.jobs._PAGE", 2)
    ids = [server.submit(name="n")["id"] for _ in range(5)]
    shown, address = [], "/?name=n"
    while address:
        text = page(server, address)
        shown += listed(text)
        older = re.search(r'href="([^"]+)" rel="next"', text)
        address = older and older[1].replace("&amp;", "&")
        assert not address or "name=n" in address
    assert shown == ids[::-1]


def test_only_while_a_job_runs_the_page_asks_for_news(server):
    job = server.submit()["id"]
    assert f'hx-get="/jobs-active?job={job}"' in page(server)
    change(server, job, progress=0.25, stage="cross_layer")
    news = page(server, "/jobs-active", job=job)
    assert 'hx-trigger="every 3s"' in news
    assert f'id="state-{job}" hx-swap-oob="true"' in news
    succeed(server, job)
    news = page(server, "/jobs-active", job=job)
    assert "budget met" in news
    assert "hx-get" not in news
    assert "hx-get" not in page(server)


def test_evaluated_plans_are_drawn(server):
    job = server.submit()["id"]
    plans = [(9640, 0.03, False), (13901, 0.0, True), (8194, 0.005, True)]
    with server.sessions.begin() as session:
        row = lock_job(session, job)
        for size_bytes, drop, within in plans:
            add_event(
                session,
                row,
                "evaluated",
                {"size_bytes": size_bytes, "drop": drop, "within": within},
                row.created_at,
            )
    text = page(server)
    assert text.count("<circle") == 3
    assert text.count('class="over"') == 1


def test_a_sparkline_stays_within_its_picture():
    assert sparkline([{"size_bytes": 1, "drop": 0.0}], 0.1) is None
    same = [{"size_bytes": 5, "drop": 0.2}, {"size_bytes": 5, "drop": 0.2}]
    drawn = sparkline([*same, {"size_bytes": 7, "drop": -0.1}], None)
    assert [dot.x for dot in drawn.dots] == [4, 4, 92]
    assert all(0 <= dot.y <= HEIGHT for dot in drawn.dots)
    assert drawn.dots[0].y < drawn.dots[2].y  # upwards on a screen is towards 0
    assert drawn.budget_y is None
    assert 0 <= sparkline(same, 0.9).budget_y < sparkline(same, 0.9).dots[0].y


def test_a_job_is_named_pinned_cancelled_and_deleted(server):
    job = server.submit(name="before", tags=["old"])["id"]
    form = {"name": "after", "tags": "b, a,,b", "pinned": "true", "to": "/?tag=a"}
    answer = server.client.post(f"/jobs/{job}/labels", data=form)
    assert (answer.status_code, answer.headers["location"]) == (303, "/?tag=a")
    now = server.client.get(f"/v1/jobs/{job}").json()
    assert (now["name"], now["tags"], now["pinned"]) == ("after", ["a", "b"], True)
    assert "pinned" in page(server)
    server.client.post(f"/jobs/{job}/labels", data={"name": "", "tags": ""})
    now = server.client.get(f"/v1/jobs/{job}").json()
    assert (now["name"], now["tags"], now["pinned"]) == (None, [], False)

    refused = server.client.post(f"/jobs/{job}/delete", headers=HTML)
    assert refused.status_code == 409
    assert "cancel it first" in refused.text
    assert server.client.post(f"/jobs/{job}/cancel", data={"to": "//evil"}).headers["location"] == f"/jobs/{job}"
    assert server.client.post(f"/jobs/{job}/delete").headers["location"] == "/"
    assert listed(page(server)) == []


@pytest.mark.parametrize("what", ["cancel", "labels", "delete"])
def test_a_page_from_elsewhere_changes_nothing(server, what):
    job = server.submit()["id"]
    answer = server.client.post(f"/jobs/{job}/{what}", headers={"Origin": "http://evil.example"})
    assert answer.status_code == 403
    assert server.client.get(f"/v1/jobs/{job}").json()["state"] == "queued"


def test_jobs_of_other_projects_are_not_there(serve, settings):
    server = serve(settings.model_copy(update={"auth": "keys"}))
    with server.as_key("one") as one, server.as_key("two", "viewer") as viewer, server.as_key("two", "member") as two:
        model = one.put("/v1/models", content=b"model").json()["id"]
        job = one.post("/v1/jobs", json=JobRequest(model_id=model).model_dump(mode="json")).json()["id"]
        assert listed(one.get("/", headers=HTML).text) == [job]
        assert "No job yet" in two.get("/", headers=HTML).text
        assert job not in two.get("/jobs-active", params={"job": job}, headers=HTML).text
        assert two.post(f"/jobs/{job}/delete").status_code == 404
        assert viewer.post(f"/jobs/{job}/delete").status_code == 403
        text = viewer.get("/", headers=HTML).text
        assert "/new" not in text
