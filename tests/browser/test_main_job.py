"""The main job of the page, as somebody does it: files in, budget set, watched to its end, a file out that runs.

Once by mouse, once by keyboard alone. And a file that is there already, certified.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
from playwright.sync_api import Locator, Page, expect

from tests.browser.browsing import PATIENCE_MS, assert_accessible
from tests.browser.service import Site

MOST_STOPS = 100
"""Of the Tab key on its way to anything on a page."""
expect.set_options(timeout=PATIENCE_MS)


def test_by_mouse(page: Page, site: Site, tmp_path: Path, screenshot: Callable[[str], None]) -> None:
    page.goto("/")
    page.get_by_role("link", name="New job").first.click()
    page.get_by_label("The network").set_input_files(site.model)
    page.get_by_label("The samples", exact=True).set_input_files(site.data)
    recognised = page.locator("#recognised")
    expect(recognised).to_contain_text("float32, any × 1 × 8 × 8")
    expect(recognised).to_contain_text("3 Conv")
    expect(recognised).to_contain_text("1,097 samples")
    expect(recognised).to_contain_text("10 classes")
    expect(recognised.get_by_role("img")).to_have_count(8)
    page.get_by_label("Metric", exact=True).select_option("top1")
    page.get_by_label("Largest drop").fill("0.03")
    meaning = page.locator("#meaning")
    expect(meaning).to_contain_text("At most 3 of 100 held-out samples more may be classified wrongly")
    expect(meaning).to_contain_text("329 held-out samples, 30 % of 1,097")
    page.get_by_label("Name", exact=True).fill("by mouse")
    screenshot("asked")
    page.get_by_role("button", name="Start the job").click()

    page.wait_for_url("**/jobs/*")
    expect(page.get_by_role("heading", name="by mouse")).to_be_visible()
    screenshot("running")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download model.onnx").click()
    assert_accessible(page)
    screenshot("result")

    quantized = tmp_path / "model.onnx"
    download.value.save_as(quantized)
    assert quantized.stat().st_size < site.model.stat().st_size / 2
    assert site.job(page.url.rsplit("/", 1)[1])["outcome"] == "met"
    lost = accuracy(site.model, site.data) - accuracy(quantized, site.data)
    assert lost <= 2 * 0.03  # of all samples, and not of those that were held out alone


def test_by_keyboard(page: Page, site: Site) -> None:
    page.goto("/")
    press(page, page.get_by_role("link", name="New job").first, "Enter")
    page.wait_for_url("**/new")
    for label, file in (("The network", site.model), ("The samples", site.data)):
        with page.expect_file_chooser() as chooser:
            press(page, page.get_by_label(label, exact=True), "Enter")
        chooser.value.set_files(file)
    expect(page.locator("#recognised")).to_contain_text("1,097 samples")
    press(page, page.get_by_label("Largest drop"), "Control+a")
    page.keyboard.type("0.04")
    focus(page, page.get_by_label("Metric", exact=True))
    page.keyboard.type("top1")
    expect(page.locator("#meaning")).to_contain_text("At most 4 of 100 held-out samples more may be classified wrongly")
    press(page, page.get_by_role("radio", name="Size"), "ArrowDown")
    expect(page.get_by_role("radio", name="Bit operations")).to_be_checked()
    press(page, page.get_by_role("button", name="Start the job"), "Enter")

    page.wait_for_url("**/jobs/*")
    link = page.get_by_role("link", name="Download model.onnx")
    expect(link).to_be_visible()
    with page.expect_download() as download:
        press(page, link, "Enter")
    assert download.value.path().stat().st_size < site.model.stat().st_size
    request = site.job(page.url.rsplit("/", 1)[1])["request"]
    assert (request["budget"]["metric"], request["budget"]["max_drop"]) == ("top1", 0.04)
    assert request["objective"] == "bit_operations"


def test_a_given_file_is_certified(
    page: Page, site: Site, finished_job: str, tmp_path: Path, screenshot: Callable[[str], None]
) -> None:
    quantized = tmp_path / "quantized.onnx"
    quantized.write_bytes(site.api.get(f"/v1/jobs/{finished_job}/model.onnx").content)
    page.goto("/")
    page.get_by_role("link", name="Certify").first.click()
    page.get_by_label("The float model").set_input_files(site.model)
    page.get_by_label("The quantized file").set_input_files(quantized)
    page.get_by_label("The samples", exact=True).set_input_files(site.data)
    page.get_by_label("Largest drop").fill("0.05")
    expect(page.locator("#meaning")).to_contain_text("1,097 held-out samples, all of yours")
    expect(page.locator("#recognised")).to_contain_text("The quantized file")
    page.get_by_role("button", name="Certify").click()

    page.wait_for_url("**/jobs/*")
    verdict = page.get_by_role("region", name="Verdict")
    expect(verdict).to_contain_text("Certified: the budget is kept and no defect was found.")
    expect(page.get_by_role("region", name="Weights of the quantized file")).to_contain_text("conv2.weight")
    assert_accessible(page)
    screenshot("certificate")


def focus(page: Page, target: Locator) -> None:
    """Go to `target` by the Tab key."""
    for _ in range(MOST_STOPS):
        if target.evaluate("element => element === document.activeElement"):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"the Tab key does not come to {target}")


def press(page: Page, target: Locator, key: str) -> None:
    """Go to `target` by the Tab key and press `key` there."""
    focus(page, target)
    page.keyboard.press(key)


def accuracy(model: Path, data: Path) -> float:
    """The share of the samples that a file classifies rightly in ONNX Runtime."""
    samples = np.load(data)
    (logits,) = onnxruntime.InferenceSession(model).run(None, {"image": samples["image"]})
    return float((logits.argmax(1) == samples["labels"]).mean())
