"""The description of the API as a page: it shows itself, and asks nobody else for anything."""

from __future__ import annotations


def test_the_page_lists_the_calls_and_opens_one(page):
    page.goto("/docs")
    page.get_by_role("heading", name="bitbudget").first.wait_for()
    call = page.locator("#operations-jobs-submit_job")
    call.locator("button").first.click()
    call.get_by_text("Idempotency-Key").first.wait_for()
    assert page.locator(".opblock").count() > 40
    assert page.locator(".errors-wrapper").count() == 0
