"""`python -m documentation`: builds build/site, and fails where a link leads nowhere or a page asks for something
outside."""

from __future__ import annotations

import sys

from documentation.links import broken_links, outside_requests
from documentation.site import build


def main() -> int:
    """The exit status: 0 where the site is whole."""
    site = build()
    faults = [*broken_links(site), *outside_requests(site)]
    for fault in faults:
        sys.stderr.write(f"{fault}\n")
    pages = len(list(site.rglob("*.html")))
    sys.stdout.write(f"{pages} pages, {len(faults)} faults: {site / 'index.html'}\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
