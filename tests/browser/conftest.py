"""Pages in a real browser, from a real service.

`page` is one at a view of its own; after the test it must have shown no error and asked nobody else for anything. The
job that has ended is made once for a run of the tests: each of their processes serves a copy of what it left.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.browsing import View, chromium, find_chromium, opened
from tests.browser.service import ROOT, Site, make_finished_job, serve

SCREENSHOTS = ROOT / "build" / "screenshots"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; tests that need it are skipped without it. While it runs, Playwright keeps an event loop running in
    this thread, in which tests of other files run loops of their own."""
    program = find_chromium()
    if program is None:
        pytest.skip("there is no Chromium; install it, e.g. with apt-get install chromium")
    with chromium(program) as started:
        yield started


@pytest.fixture(scope="session")
def finished_home(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with the network, its samples and the home of a service that has done one job; and the job's id."""
    base = tmp_path_factory.getbasetemp()
    # Processes of one run of the tests share the folder above theirs.
    shared = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "finished-job"
    shared.mkdir(exist_ok=True)
    job_id = shared / "job-id"
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not job_id.exists():
            job_id.write_text(make_finished_job(shared))
    return shared, job_id.read_text()


@pytest.fixture(scope="session")
def finished_job(finished_home: tuple[Path, str]) -> str:
    """The id of a job that has succeeded, in `site`."""
    return finished_home[1]


@pytest.fixture(scope="session")
def site(finished_home: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A service with a worker and the job that has ended. All tests of a process share it: leave that job as it is."""
    home = tmp_path_factory.mktemp("site") / "home"
    shutil.copytree(finished_home[0] / "home", home)
    with serve(home, finished_home[0]) as running:
        yield running


@pytest.fixture
def view() -> View:
    """How `page` is looked at; a test asks for others with `@pytest.mark.parametrize("view", VIEWS, ids=str)`."""
    return View()


@pytest.fixture
def page(browser: Browser, site: Site, view: View) -> Iterator[Page]:
    """A page of `site`: `page.goto("/models")`."""
    with opened(browser, site.url, view) as (shown, watch):
        yield shown
        assert watch.console_errors == []
        assert watch.outside_requests == []


@pytest.fixture
def screenshot(page: Page, view: View, request: pytest.FixtureRequest) -> Callable[[str], None]:
    """`screenshot("models")`: keep what the page looks like now, in build/screenshots."""

    def keep(name: str) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        test = re.sub(r"\W+", "-", request.node.originalname)
        page.screenshot(path=SCREENSHOTS / f"{test}-{name}-{view}.png", full_page=True)

    return keep
