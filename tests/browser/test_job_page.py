"""The page of a job: live while it runs, its result, its plan as a form, and what one click asks for."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from tests.browser.browsing import PATIENCE_MS, VIEWS, assert_accessible
from tests.browser.service import REQUEST, Site

expect.set_options(timeout=PATIENCE_MS)


def job_of(page: Page) -> str:
    """The id of the job that is shown."""
    return page.url.rpartition("/")[2]


def test_a_job_is_watched_from_its_start_to_its_result(
    page: Page, site: Site, screenshot: Callable[[str], None]
) -> None:
    loads = []
    page.on("request", lambda request: loads.append(request.url) if request.is_navigation_request() else None)
    job = site.submit({**REQUEST, "name": "watched", "seed": 7})
    page.goto(f"/jobs/{job}")
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    expect(page.locator(".stages .running")).to_be_visible()
    assert_accessible(page)
    expect(page.locator("svg.plans circle").first).to_be_visible()
    screenshot("running")
    # the end comes by itself, without a load of the page
    expect(page.locator(".headline")).to_contain_text("times smaller")
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    expect(page.locator("svg.plans")).to_have_count(0)
    assert len(loads) == 1


def test_a_job_is_cancelled_from_its_page(page: Page, site: Site) -> None:
    job = site.submit({**REQUEST, "name": "stopped", "seed": 8})
    page.goto(f"/jobs/{job}")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("The job was cancelled")).to_be_visible()
    assert site.job(job)["state"] == "cancelled"


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_a_result_is_for_everybody(
    page: Page, finished_job: str, screenshot: Callable[[str], None], view: object
) -> None:
    page.goto(f"/jobs/{finished_job}")
    expect(page.locator(".headline")).to_contain_text("budget met")
    for picture in page.locator("picture img").all():
        picture.scroll_into_view_if_needed()
        expect(picture).to_have_js_property("complete", value=True)
        assert picture.evaluate("image => image.naturalWidth") > 0
    screenshot("result")
    assert_accessible(page)
    page.goto(f"/jobs/{finished_job}/edit")
    screenshot("edit")
    assert_accessible(page)


def test_layers_are_sorted_without_a_load(page: Page, finished_job: str) -> None:
    page.goto(f"/jobs/{finished_job}")
    page.evaluate("window.stayed = true")
    column = page.locator("#layers tbody td:nth-child(3)")
    page.get_by_role("link", name="Weights").click()
    expect(page.locator("#layers th[aria-sort=ascending]")).to_have_text("Weights ↑")
    assert column.all_inner_texts() == ["144", "4,608", "7,680", "13,824"]
    page.get_by_role("link", name="Weights").click()
    expect(page.locator("#layers th[aria-sort=descending]")).to_be_visible()
    assert column.all_inner_texts() == ["13,824", "7,680", "4,608", "144"]
    assert page.evaluate("window.stayed")


def test_one_click_applies_a_point_of_the_frontier(page: Page, site: Site, finished_job: str) -> None:
    points = site.api.get(f"/v1/jobs/{finished_job}/frontier").json()["points"]
    page.goto(f"/jobs/{finished_job}")
    page.get_by_text(f"{len(points)} plans", exact=True).click()
    page.get_by_role("button", name="Apply point 1", exact=True).click()
    page.wait_for_url(lambda url: finished_job not in url)
    applied = site.finished(job_of(page))
    assert applied["parent_id"] == finished_job
    formats = {row["name"]: row["format"] for row in applied["request"]["plan"]["layers"]}
    assert formats == points[1]["formats"]
    delivered = site.api.get(f"/v1/jobs/{applied['id']}/plan").json()
    assert {row["name"]: row["format"] for row in delivered["layers"]} == formats
    page.reload()
    expect(page.get_by_role("link", name="compare with it")).to_be_visible()


def test_a_plan_is_edited_by_keyboard_and_applied(page: Page, site: Site, finished_job: str) -> None:
    before = site.api.get(f"/v1/jobs/{finished_job}/plan").json()["layers"]
    page.goto(f"/jobs/{finished_job}/edit")
    expect(page.locator("#predicted")).to_contain_text("0 of 4")
    first = page.get_by_role("combobox", name="conv1")
    # the search may have given any format to any layer: those that are chosen here are others
    another = "int8/channel" if before[0]["format"] != "int8/channel" else "int7/channel"
    found = {row["format"] for row in before[:3]}
    for_all = next(
        name for name in ("int6/channel", "int5/channel", "int8/channel", "int7/channel") if name not in found
    )
    # every step down asks once, and the last answer is to be there before it is looked whether a tick asks
    with page.expect_response(
        lambda response: f"format-0={quote(another, safe='')}" in (response.request.post_data or "")
    ):
        first.press("Home")
        for _ in range(first.locator("option").count()):  # letters are taken for a beginning only if they come fast
            if first.input_value() == another:
                break
            page.keyboard.press("ArrowDown")
    expect(page.locator("#predicted")).to_contain_text("1 of 4")
    expect(page.locator("#size-0")).not_to_have_text(f"{before[0]['bytes']} bytes")
    # the rest all at once, of what the filter shows
    page.get_by_role("searchbox").fill("conv")
    expect(page.locator("#rows tr:visible")).to_have_count(3)
    page.evaluate("document.addEventListener('htmx:beforeRequest', () => { document.body.dataset.asked = 'yes' })")
    page.get_by_role("checkbox", name="Tick conv1").check()
    page.get_by_role("checkbox", name="Tick all that are shown").check()
    expect(page.locator("body")).not_to_have_attribute("data-asked", "yes")
    page.get_by_label("Format for all that are ticked").select_option(for_all)
    page.get_by_role("button", name="Give it to them").click()
    expect(page.locator("#given")).to_have_text(f"3 of 3 ticked layers got {for_all}")
    expect(page.locator("#predicted")).to_contain_text("3 of 4")
    page.get_by_role("button", name="Apply as a new job").press("Enter")
    page.wait_for_url(lambda url: not url.endswith("/edit"))
    applied = site.finished(job_of(page))
    assert applied["state"] == "succeeded", applied["error"]
    plan = site.api.get(f"/v1/jobs/{applied['id']}/plan").json()
    assert [row["format"] for row in plan["layers"]] == [*[for_all] * 3, before[3]["format"]]


def test_another_budget_is_asked_for(page: Page, site: Site, finished_job: str) -> None:
    page.goto(f"/jobs/{finished_job}")
    page.get_by_label("Largest drop").fill("0.05")
    page.get_by_role("button", name="Replan").click()
    page.wait_for_url(lambda url: finished_job not in url)
    job = site.job(job_of(page))
    assert (job["parent_id"], job["request"]["budget"]["max_drop"]) == (finished_job, 0.05)
    expect(page.locator(".headline")).to_contain_text("times smaller")


def test_a_job_that_failed_says_why(page: Page, site: Site) -> None:
    job = site.finished(site.submit({**REQUEST, "layers": {"conv9": {"keep": True}}}))
    page.goto(f"/jobs/{job['id']}")
    expect(page.get_by_role("alert")).to_contain_text("conv9")
    expect(page.get_by_role("alert")).to_contain_text("conv1, conv2, conv3, fc")
    assert_accessible(page)
