"""What a browser may do for a report: run its one script, show its own pictures, and ask nobody for anything."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path

SCRIPT = Path(__file__).parent / "templates" / "report.js"


@cache
def policy() -> str:
    """The Content-Security-Policy of a report. It stands in the file itself too, which so needs no server."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.read_bytes()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
