"""Every page in Chromium: how soon the largest part of it is there, and whether it breaks a rule.

The service, its jobs and what is asked of a page are those of the tests (`tests/browser`).
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page

from tests.browser.browsing import VIEWS, View, chromium, find_chromium, opened, violations, wider_than_view
from tests.browser.service import REQUEST, Site, serve, write_digits

LOADS = 7
"""Of the pages whose speed is measured, each with an empty cache."""

# Buffered entries only: those that the browser had when the page was complete.
_LARGEST_PAINT = """
new Promise(answer => new PerformanceObserver((list, observer) => {
  observer.disconnect();
  answer(list.getEntries().at(-1).startTime);
}).observe({type: "largest-contentful-paint", buffered: true}))
"""


def pages() -> dict[str, Any]:
    """Figures of all pages.

    `page_largest_contentful_paint_ms`: of the result of a job and of its report, the slower median of `LOADS` loads.
    `axe_violations`: serious or critical, over all pages, widths and colour schemes, with folded parts shut and open.
    """
    program = find_chromium()
    if program is None:
        sys.exit("there is no Chromium; install it, e.g. with apt-get install chromium")
    with _site() as (site, addresses), chromium(program) as browser:
        timed = {name: _largest_paint_ms(browser, site, addresses[name]) for name in ("job", "report")}
        for name, paint_ms in timed.items():
            sys.stderr.write(f"{name}: largest contentful paint after {paint_ms:.0f} ms\n")
        broken: dict[str, list[str]] = {"axe_violations": [], "console_errors": [], "outside_requests": [], "wide": []}
        for view in VIEWS:
            for name, address in addresses.items():
                for kind, rules in _broken_rules(browser, site, address, view).items():
                    broken[kind] += rules
                    for rule in rules:
                        sys.stderr.write(f"{name} {view}: {kind}: {rule}\n")
        report = site.api.get(addresses["report"])
    return {
        "page_largest_contentful_paint_ms": round(max(timed.values())),
        "axe_violations": len(broken["axe_violations"]),
        "console_errors": len(broken["console_errors"]),
        "outside_requests": len(broken["outside_requests"]),
        "pages_wider_than_the_view": len(broken["wide"]),
        "pages": len(addresses),
        "report_bytes": len(report.content),
    }


@contextmanager
def _site() -> Iterator[tuple[Site, Mapping[str, str]]]:
    """A service with two jobs that have ended and one that certified, and the address of every page, by name."""
    with tempfile.TemporaryDirectory(prefix="first-use-") as name:
        folder = Path(name)
        write_digits(folder)
        with serve(folder / "home", folder) as site:
            job = _succeeded(site, site.submit())
            answer = site.api.post(f"/v1/jobs/{job['id']}/replan", json={**REQUEST, "budget": {"max_drop": 0.1}})
            replan = _succeeded(site, answer.raise_for_status().json()["id"])
            quantized = site.api.get(f"/v1/jobs/{job['id']}/model.onnx").raise_for_status().content
            request = {
                "model_id": job["model_id"],
                "dataset_id": job["dataset_id"],
                "quantized_id": site.api.put("/v1/models", content=quantized).raise_for_status().json()["id"],
                "budget": REQUEST["budget"],
            }
            answer = site.api.post("/v1/certificates", json=request)
            certificate = _succeeded(site, answer.raise_for_status().json()["id"])
            yield (
                site,
                {
                    "jobs": "/",
                    "job": f"/jobs/{job['id']}",
                    "edit": f"/jobs/{job['id']}/edit",
                    "certificate": f"/jobs/{certificate['id']}",
                    "report": f"/v1/jobs/{job['id']}/report.html",
                    "compare": f"/compare?job={job['id']}&job={replan['id']}",
                    "new": "/new",
                    "new from a job": f"/new?from={job['id']}",
                    "certify": "/certify",
                    "models": "/models",
                    "model": f"/models/{job['model_id']}",
                    "datasets": "/datasets",
                    "dataset": f"/datasets/{job['dataset_id']}",
                    "usage": "/usage",
                    "sign in": "/sign-in",
                    "API": "/docs",
                },
            )


def _succeeded(site: Site, job_id: str) -> dict[str, Any]:
    """The job once it has ended well; in another way it ends the benchmark."""
    job = site.finished(job_id)
    if job["state"] != "succeeded":
        sys.exit(f"the job {job_id} {job['state']}: {job['error']}")
    return job


def _largest_paint_ms(browser: Browser, site: Site, address: str) -> float:
    times = []
    for _ in range(LOADS):
        with opened(browser, site.url, View()) as (page, _watch):
            _go(page, address)
            times.append(float(page.evaluate(_LARGEST_PAINT)))
    return statistics.median(times)


def _broken_rules(browser: Browser, site: Site, address: str, view: View) -> dict[str, list[str]]:
    """What the page does that none may do, by kind."""
    with opened(browser, site.url, view) as (page, watch):
        _go(page, address)
        found = violations(page)
        wide = wider_than_view(page)
        if page.evaluate("document.querySelectorAll('details:not([open])').length"):
            page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")
            found += [violation for violation in violations(page) if violation not in found]
    return {
        "axe_violations": found,
        "console_errors": watch.console_errors,
        "outside_requests": watch.outside_requests,
        "wide": [f"by {wide} pixels"] if wide else [],
    }


def _go(page: Page, address: str) -> None:
    """Load a page to its end; one that is not there ends the benchmark."""
    answer = page.goto(address, wait_until="networkidle")
    if answer is None or not answer.ok:
        sys.exit(f"{address} answered {answer and answer.status}")
