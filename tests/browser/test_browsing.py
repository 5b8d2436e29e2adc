"""What is asked of every page is really asked: a page that breaks a rule is told of."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser

from tests.browser.browsing import VIEWS, View, assert_accessible, opened, violations, wider_than_view
from tests.browser.service import Site


def test_errors_and_requests_to_others_are_noticed(browser: Browser, site: Site):
    with opened(browser, site.url, View()) as (page, watch):
        page.goto("/")
        with page.expect_event("pageerror"):
            page.evaluate("console.error('wrong'); setTimeout(() => { throw new Error('thrown') })")
        with page.expect_console_message(lambda message: "Content Security Policy" in message.text):
            page.evaluate("fetch('http://127.0.0.1:9/').catch(() => 0)")
    texts = " ".join(watch.console_errors)
    assert "wrong" in texts
    assert "thrown" in texts
    assert "Content Security Policy" in texts  # which let no request out
    with opened(browser, site.url, View()) as (page, watch):
        page.route("http://elsewhere.test/**", lambda route: route.fulfill(body="<p>elsewhere</p>"))
        page.goto("http://elsewhere.test/page")
    assert watch.outside_requests == ["http://elsewhere.test/page"]


def test_what_not_everybody_can_use_is_noticed(page):
    page.goto("/")
    page.evaluate("document.querySelector('main').insertAdjacentHTML('beforeend', '<input><p id=wide>pale</p>')")
    page.evaluate("wide.style.color = '#eee'; wide.style.background = '#fff'; wide.style.width = '3000px'")
    rules = {violation.partition(":")[0] for violation in violations(page)}
    assert rules == {"label", "color-contrast"}
    assert wider_than_view(page) > 1000


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_the_page_is_looked_at_as_asked(page, view, finished_job, screenshot):
    page.goto("/")
    assert page.viewport_size["width"] == view.width
    assert page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") == (view.scheme == "dark")
    # those of its replans are quiet
    assert page.locator(f"a:not(.quiet)[href='/jobs/{finished_job}']").count() == 1
    assert_accessible(page)
    screenshot("jobs")
