"""From docs/ to a site: pages are copied, the README becomes the first one, the API's schema becomes another."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from documentation.reference import reference_page

ROOT = Path(__file__).parents[1]
SHIM = "iframe-worker.js"


def build(root: Path = ROOT) -> Path:
    """Write `build/site`; gives its folder.

    Raises:
        RuntimeError: the generator failed, or found something to warn of; its words are in the text.
    """
    pages = root / "build/docs"
    gather(root, pages)
    program = str(Path(sys.executable).with_name("zensical"))
    done = subprocess.run(
        [program, "build", "--clean", "--strict", "--config-file", str(root / "zensical.toml")],
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
    )
    if done.returncode:
        raise RuntimeError(f"zensical ended with {done.returncode}: {done.stdout}{done.stderr}")
    site = root / "build/site"
    _bring_the_shim(site)
    return site


def gather(root: Path, pages: Path) -> None:
    """Everything that the generator reads, in the folder `pages`."""
    shutil.rmtree(pages, ignore_errors=True)
    shutil.copytree(root / "docs", pages)
    for name in ("README.md", "CHANGELOG.md"):
        text = re.sub(r"\]\(docs/", "](", (root / name).read_text())
        (pages / {"README.md": "index.md"}.get(name, name.lower())).write_text(text)
    (pages / "reference.md").write_text(reference_page())
    for page in pages.rglob("*.md"):
        page.write_text(_without_links_out_of(pages, page))


def _without_links_out_of(pages: Path, page: Path) -> str:
    """The text of a page, in which files of the repository that the site does not have are named without a link."""

    def stays(link: re.Match[str]) -> str:
        target = link[2].partition("#")[0]
        outside = not (page.parent / target).resolve().is_relative_to(pages.resolve())
        in_the_root = not (page.parent / target).exists() and (ROOT / target).exists()
        return link[1] if outside or in_the_root else link[0]

    return re.sub(r"\[([^\]]*)\]\(([^):\s]+)\)", stays, page.read_text())


def _bring_the_shim(site: Path) -> None:
    """Search runs in a worker, which a page from a disk may not start without this script. The generator would fetch
    it from elsewhere each time."""
    shutil.copy(Path(__file__).with_name("vendor") / SHIM, site / "assets/javascripts" / SHIM)
    for page in site.rglob("*.html"):
        up = "../" * (len(page.relative_to(site).parts) - 1)
        text = page.read_text()
        page.write_text(text.replace("https://unpkg.com/iframe-worker/shim", f"{up}assets/javascripts/{SHIM}"))
