"""The pages that list things, in a real browser: at two widths, light and dark, and by what people do in them."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.browsing import PATIENCE_MS, VIEWS, assert_accessible
from tests.browser.service import REQUEST, Site

expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def second_job(site: Site, finished_job: str) -> str:
    """A replan of the job that has ended, ended too."""
    answer = site.api.post(f"/v1/jobs/{finished_job}/replan", json={"budget": {"max_drop": 0.1}, "name": "looser"})
    assert answer.status_code == 202, answer.text
    job = site.finished(answer.json()["id"])
    assert job["state"] == "succeeded", job
    return str(job["id"])


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_every_list_can_be_used_by_everybody(page: Page, site: Site, finished_job, second_job, screenshot):
    job = site.job(finished_job)
    for name, address in (
        ("jobs", "/"),
        ("no-job", "/?name=nothing"),
        ("models", "/models"),
        ("model", f"/models/{job['model_id']}"),
        ("datasets", "/datasets"),
        ("dataset", f"/datasets/{job['dataset_id']}"),
        ("usage", "/usage"),
        ("api", "/docs"),
        ("compare", f"/compare?job={finished_job}&job={second_job}"),
    ):
        page.goto(address)
        page.wait_for_load_state("networkidle")
        for summary in page.locator("main details > summary").all():
            if summary.is_visible():
                summary.click()
                break
        assert_accessible(page)
        screenshot(name)


def test_jobs_are_chosen_and_compared_by_keyboard(page: Page, finished_job, second_job):
    page.goto("/")
    button = page.get_by_role("button", name="Compare the selected jobs")
    expect(button).to_be_disabled()
    for job_id in (finished_job, second_job):
        page.locator(f"input[value='{job_id}']").focus()
        page.keyboard.press("Space")
    expect(button).to_be_enabled()
    button.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/compare?**")
    expect(page.get_by_role("rowheader", name="budget.max_drop")).to_be_visible()
    expect(page.get_by_role("columnheader", name="looser").first).to_be_visible()


def test_a_job_is_watched_named_and_deleted_from_the_list(page: Page, site: Site):
    job_id = site.submit({**REQUEST, "name": "listed", "seed": 1})
    page.goto("/?name=listed")
    expect(page.locator(f"#state-{job_id}")).to_contain_text("budget met")  # without loading the page anew
    expect(page.locator(f"#sizes-{job_id}")).to_contain_text("times smaller")
    expect(page.locator(f"#spark-{job_id} svg")).to_be_visible()
    page.wait_for_function("!document.querySelector('#poller').hasAttribute('hx-get')")

    page.get_by_label("Change listed").click()
    page.get_by_label("Name", exact=True).last.fill("renamed")
    page.get_by_label("Tags").fill("night, second")
    page.get_by_role("button", name="Save the labels").click()
    page.goto("/?tag=night")
    expect(page.get_by_role("link", name="renamed")).to_be_visible()
    page.get_by_label("Change renamed").click()
    page.get_by_text("Delete…").click()
    page.get_by_role("button", name="Delete renamed for good").click()
    expect(page.get_by_text("No job fits")).to_be_visible()


def test_a_model_is_uploaded_and_one_in_use_is_kept(page: Page, site: Site, tmp_path):
    file = tmp_path / "mine.onnx"
    file.write_bytes(site.model.read_bytes() + b"\n")
    page.goto("/models")
    page.get_by_text("Upload a model").click()
    page.locator("input[type=file]").set_input_files(file)
    page.get_by_role("button", name="Upload").click()
    page.wait_for_url("**/models/*")
    expect(page.get_by_role("heading", name="mine.onnx")).to_be_visible()
    page.get_by_text("Delete…").click()
    page.get_by_role("button", name="Delete mine.onnx for good").click()
    page.wait_for_url("**/models")
    expect(page.get_by_role("link", name="mine.onnx")).to_have_count(0)
