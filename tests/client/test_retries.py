"""Which answers are waited out, how long, and what is told in the end."""

from __future__ import annotations

import inspect

import httpx
import pytest

from bitbudget_client import AsyncClient, Client, Invalid, NotAllowed, NotFound, Problem, Unavailable, Unreachable
from tests.client.conftest import Driver, job_document


def _problem(status: int, code: str, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"code": code, "title": "t", "detail": "d"}, headers=headers)


def _in_turn(*answers: httpx.Response | Exception):
    left = list(answers)

    def handler(request: httpx.Request) -> httpx.Response:
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return handler


def test_both_clients_have_the_same_methods_with_the_same_arguments() -> None:
    def methods(kind: type) -> dict[str, list[str]]:
        public = {name: value for name, value in vars(kind).items() if callable(value) and not name.startswith("_")}
        return {name: list(inspect.signature(value).parameters) for name, value in public.items()}

    assert methods(Client) == methods(AsyncClient)
    assert len(methods(Client)) > 20


def test_a_server_that_is_away_is_waited_for_in_growing_pauses(driver: Driver) -> None:
    handler = _in_turn(
        httpx.Response(200, json=job_document()),
        httpx.ConnectError("refused"),
        _problem(503, "database_unavailable"),
        _problem(502, "unknown"),
        httpx.Response(200, json=job_document(state="running")),
    )

    def twice(client):
        first = client.job("x")
        if not inspect.isawaitable(first):
            return client.job("x")

        async def both():
            await first
            return await client.job("x")

        return both()

    assert driver.run(handler, twice).state == "running"
    assert driver.pauses == [0.2, 0.4, 0.8]


def test_a_server_that_never_was_there_is_not_waited_for(driver: Driver) -> None:
    with pytest.raises(Unreachable, match=r"from http://bitbudget\.test/: refused; is the server running"):
        driver.run(_in_turn(httpx.ConnectError("refused")), lambda client: client.job("x"))
    assert driver.pauses == []


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_respected_and_ends_patience_where_it_is_longer(driver: Driver, status: int) -> None:
    handler = _in_turn(_problem(status, "quota_exceeded", **{"Retry-After": "7"}), httpx.Response(200, json={"a": 1}))
    assert driver.run(handler, lambda client: client.get("/v1/usage")) == {"a": 1}
    assert driver.pauses == [7.0]
    with pytest.raises(Unavailable) as raised:
        driver.run(
            _in_turn(_problem(status, "quota_exceeded", **{"Retry-After": "3600"})), lambda c: c.get("/v1/usage")
        )
    assert raised.value.retry_after_seconds == 3600


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, NotAllowed), (403, NotAllowed), (404, NotFound), (422, Invalid), (409, Problem), (429, Unavailable)],
)
def test_an_answer_that_repeating_does_not_change_is_told_at_once(driver: Driver, status: int, kind: type) -> None:
    body = {"code": "c", "title": "t", "detail": "d", "errors": [{"field": "budget.max_drop", "message": "m"}]}
    with pytest.raises(kind) as raised:
        driver.run(_in_turn(httpx.Response(status, json=body)), lambda client: client.job("x"))
    problem = raised.value
    assert (problem.status, problem.code, str(problem)) == (status, "c", "t (c): d")
    assert [(error.field, error.message) for error in problem.errors] == [("budget.max_drop", "m")]


def test_a_page_of_a_proxy_is_a_problem_too(driver: Driver) -> None:
    with pytest.raises(Problem, match="418") as raised:
        driver.run(_in_turn(httpx.Response(418, text="<h1>no</h1>")), lambda client: client.job("x"))
    assert raised.value.detail == "<h1>no</h1>"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_told_and_not_followed(driver: Driver, status: int) -> None:
    elsewhere = httpx.Response(status, headers={"Location": "https://other.test/v1/jobs/x"}, text="<h1>moved</h1>")
    with pytest.raises(Problem, match=r"/v1/jobs/x leads to 'https://other\.test/v1/jobs/x'") as raised:
        driver.run(_in_turn(elsewhere), lambda client: client.job("x"))
    assert raised.value.status == status


def test_a_job_is_posted_with_one_idempotency_key_however_often(driver: Driver) -> None:
    keys = []

    def handler(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["idempotency-key"])
        if len(keys) == 1:
            raise httpx.ReadTimeout("no answer")
        return httpx.Response(202, json=job_document())

    driver.run(handler, lambda client: client.post_job("/v1/jobs", {}))
    assert len(keys) == 2
    assert len(set(keys)) == 1


def test_a_removal_whose_answer_was_lost_has_removed(driver: Driver) -> None:
    lost = (httpx.ReadError("cut"), _problem(404, "not_found"))
    driver.run(_in_turn(*lost), lambda client: client.delete_job("x"))
    with pytest.raises(NotFound):
        driver.run(_in_turn(_problem(404, "not_found")), lambda client: client.delete_job("x"))


def test_a_key_is_sent_with_every_request(driver: Driver) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == "Bearer secret"
        assert request.headers["user-agent"].startswith("bitbudget-client/")
        return httpx.Response(200, json=job_document())

    driver.run(handler, lambda client: client.job("x"), key="secret")
