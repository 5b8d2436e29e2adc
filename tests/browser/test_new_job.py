"""Starting jobs in a real browser: files that are dropped, lines that are cut, and browsers without scripts."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.browser.browsing import PATIENCE_MS, VIEWS, View, assert_accessible, opened
from tests.browser.service import Site

PIECE_BYTES = 16 * 1024**2
"""As in static/upload.js."""
SECOND = ("PATCH", str(PIECE_BYTES))
DROP = """([box, name, text]) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name));
  for (const kind of ["dragenter", "dragover", "drop"])
    box.dispatchEvent(new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: transfer }));
}"""
expect.set_options(timeout=PATIENCE_MS)


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_the_form_is_usable_by_everybody(page: Page, site: Site, screenshot: Callable[[str], None]) -> None:
    page.goto("/new")
    assert_accessible(page)
    page.get_by_label("The network").set_input_files(site.model)
    page.get_by_label("The samples", exact=True).set_input_files(site.data)
    expect(page.locator("#recognised")).to_contain_text("1,097 samples")
    page.get_by_text("More: formats").click()
    page.get_by_label("Confidence").fill("0.95")
    expect(page.locator("#meaning")).to_contain_text("no file can keep this budget")
    assert_accessible(page)
    screenshot("new")

    page.goto("/certify")
    assert_accessible(page)
    screenshot("certify")


def test_errors_are_shown_at_their_fields_and_files_are_kept(
    browser: Browser, site: Site, screenshot: Callable[[str], None]
) -> None:
    # not `page`: the browser writes the status of a refused form to its console
    with opened(browser, site.url, View()) as (page, watch):
        page.goto("/new")
        page.get_by_label("The network").set_input_files(site.model)
        expect(page.get_by_text("digits.onnx, 106 kB: uploaded")).to_be_visible()
        page.get_by_label("Largest drop").fill("lots")
        page.get_by_role("button", name="Start the job").click()

        field = page.get_by_label("Largest drop")
        expect(field).to_have_attribute("aria-invalid", "true")
        expect(field).to_have_value("lots")
        expect(page.locator("[id='wrong-budget.max_drop-1']")).to_contain_text('got "lots"')
        expect(page.locator("#model_id option:checked")).to_contain_text("digits.onnx")
        assert_accessible(page)
        field.fill("0.05")
        page.get_by_role("button", name="Start the job").click()
        page.wait_for_url("**/jobs/*")
        job_id = page.url.rsplit("/", 1)[1]
        assert site.job(job_id)["request"]["budget"]["max_drop"] == 0.05
        assert watch.outside_requests == []
    site.api.post(f"/v1/jobs/{job_id}/cancel")


def test_a_dropped_file_is_uploaded(page: Page, site: Site) -> None:
    page.goto("/new")
    box = page.locator("[data-upload=model]").element_handle()
    page.evaluate(DROP, [box, "dropped.onnx", base64.b64encode(site.model.read_bytes()).decode()])

    expect(page.locator("#model_id option:checked")).to_contain_text("dropped.onnx")
    assert page.locator("#model_id").input_value() == hashlib.sha256(site.model.read_bytes()).hexdigest()


def test_a_network_goes_with_the_files_of_its_weights(page: Page, site: Site, tmp_path: Path) -> None:
    files = [tmp_path / "outside.onnx", tmp_path / "outside.onnx.data"]
    for file in files:
        file.write_bytes(file.name.encode())
    page.goto("/new")
    page.get_by_label("The network").set_input_files(files)

    expect(page.locator("#model_id option:checked")).to_contain_text("outside.onnx")
    answer = site.api.get(f"/v1/models/{page.locator('#model_id').input_value()}").json()
    assert answer["name"] == "outside.onnx"
    assert answer["size_bytes"] > sum(file.stat().st_size for file in files)  # an archive of both


def test_a_form_that_is_sent_too_early_waits_for_its_files(page: Page, site: Site) -> None:
    held: list[Route] = []
    page.route("**/v1/uploads", lambda route: held.append(route))
    page.goto("/new")
    with page.expect_request("**/v1/uploads"):
        page.get_by_label("The network").set_input_files(site.model)
    page.get_by_role("button", name="Start the job").click()
    expect(page.get_by_text("Starts when the upload is complete.")).to_be_visible()
    assert page.url.endswith("/new")

    held[0].continue_()
    page.wait_for_url("**/jobs/*")
    site.api.post(f"/v1/jobs/{page.url.rsplit('/', 1)[1]}/cancel")


def test_a_form_that_waits_is_not_sent_after_one_of_its_files_was_refused(browser: Browser, site: Site) -> None:
    held: list[Route] = []
    # not `page`: the browser writes that a call was refused to its console
    with opened(browser, site.url, View()) as (page, _):
        page.route("**/v1/uploads", lambda route: held.append(route))
        page.goto("/new")
        for label, file in (("The network", site.model), ("The samples", site.data)):
            with page.expect_request("**/v1/uploads"):
                page.get_by_label(label, exact=True).set_input_files(file)
        page.get_by_role("button", name="Start the job").click()
        expect(page.get_by_text("Starts when the upload is complete.")).to_be_visible()
        sent: list[str] = []
        page.on("request", lambda request: sent.append(request.url) if request.is_navigation_request() else None)

        held[0].fulfill(status=422, json={"detail": "no network is in this file"})
        expect(page.get_by_text("no network is in this file")).to_be_visible()
        held[1].continue_()
        expect(page.get_by_text("digits.npz, 290 kB: uploaded")).to_be_visible()
        expect(page.get_by_text("Starts when the upload is complete.")).to_be_hidden()
        assert sent == []


def test_an_upload_goes_on_when_a_quota_of_requests_is_open_again(browser: Browser, site: Site) -> None:
    asked: list[float] = []

    def refuse_once(route: Route) -> None:
        asked.append(time.monotonic())
        if len(asked) > 1:
            return route.continue_()
        problem = {"detail": "the project has sent its requests"}
        return route.fulfill(status=429, headers={"Retry-After": "2"}, json=problem)

    with opened(browser, site.url, View()) as (page, _):
        page.route("**/v1/uploads", refuse_once)
        page.goto("/new")
        page.get_by_label("The network").set_input_files(site.model)
        expect(page.get_by_text("the project has sent its requests. Trying again in 2 s")).to_be_visible()
        expect(page.locator("#model_id option:checked")).to_contain_text("digits.onnx")
    assert asked[1] - asked[0] >= 2


def test_an_upload_that_stays_refused_is_given_up(browser: Browser, site: Site) -> None:
    asked: list[str] = []

    def refuse(route: Route) -> None:
        asked.append(route.request.method)
        route.fulfill(status=429, headers={"Retry-After": "1"}, json={"detail": "the project may have 10 samples"})

    with opened(browser, site.url, View()) as (page, _):
        page.clock.install()
        page.route("**/v1/uploads", refuse)
        page.goto("/new")
        page.get_by_label("The network").set_input_files(site.model)
        for pause in (1, 2, 4):
            expect(page.get_by_text(f"the project may have 10 samples. Trying again in {pause} s")).to_be_visible()
            page.clock.run_for(1000 * pause)
        expect(page.locator(".failed")).to_have_text("the project may have 10 samples")
    assert asked == ["POST"] * 4


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Path]:
    """A file of two pieces; nobody reads it as a network."""
    path = tmp_path / "large.onnx"
    path.write_bytes(bytes(PIECE_BYTES) + b"the end")
    yield path
    path.unlink()


def test_an_upload_goes_on_after_the_line_was_cut(browser: Browser, site: Site, large: Path) -> None:
    offsets: list[str] = []

    def cut_once(route: Route) -> None:
        if route.request.method == "PATCH":
            offsets.append(route.request.headers["upload-offset"])
            if len(offsets) == 2:
                route.abort("connectionreset")
                return
        route.continue_()

    # not `page`: the browser writes that a connection was cut to its console
    with opened(browser, site.url, View()) as (page, _):
        page.route("**/v1/uploads/*", cut_once)
        page.goto("/new")
        page.get_by_label("The network").set_input_files(large)
        expect(page.locator("#model_id option:checked")).to_contain_text("large.onnx")

        model_id = page.locator("#model_id").input_value()
    assert offsets == ["0", str(PIECE_BYTES), str(PIECE_BYTES)]
    assert model_id == hashlib.sha256(large.read_bytes()).hexdigest()


def test_an_upload_goes_on_after_the_page_was_left(browser: Browser, site: Site, large: Path) -> None:
    large.write_bytes(large.read_bytes() + b", another one")
    asked: list[tuple[str, str | None]] = []

    def hold_the_second_piece_once(route: Route) -> None:
        call = (route.request.method, route.request.headers.get("upload-offset"))
        asked.append(call)
        if call != SECOND or asked.count(SECOND) > 1:
            route.continue_()

    # not `page`: the browser writes that a call was given up to its console
    with opened(browser, site.url, View()) as (page, _):
        page.route("**/v1/uploads/*", hold_the_second_piece_once)
        page.goto("/new")
        with page.expect_request(lambda request: request.headers.get("upload-offset") == str(PIECE_BYTES)):
            page.get_by_label("The network").set_input_files(large)
        page.goto("/new")
        page.get_by_label("The network").set_input_files(large)
        expect(page.locator("#model_id option:checked")).to_contain_text("large.onnx")

        assert page.locator("#model_id").input_value() == hashlib.sha256(large.read_bytes()).hexdigest()
    assert asked == [("PATCH", "0"), SECOND, ("HEAD", None), SECOND]


def test_without_scripts_the_form_carries_its_files(browser: Browser, site: Site) -> None:
    context = browser.new_context(base_url=site.url, java_script_enabled=False)
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.goto("/new")
    page.get_by_label("The network").set_input_files(site.model)
    page.get_by_label("The samples", exact=True).set_input_files(site.data)
    page.get_by_label("Name", exact=True).fill("without scripts")
    page.get_by_role("button", name="Start the job").click()
    page.wait_for_url("**/jobs/*")
    job_id = page.url.rsplit("/", 1)[1]
    context.close()

    job = site.job(job_id)
    assert job["name"] == "without scripts"
    assert job["model_id"] == hashlib.sha256(site.model.read_bytes()).hexdigest()
    assert job["dataset_id"] == hashlib.sha256(site.data.read_bytes()).hexdigest()
    site.api.post(f"/v1/jobs/{job_id}/cancel")
