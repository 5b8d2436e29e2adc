"""What the documentation promises: links that lead somewhere, commands that work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from documentation.blocks import blocks, pages
from documentation.links import broken_links, outside_requests
from documentation.site import build

ROOT = Path(__file__).parents[2]
COMMANDS = "tests/docs/test_commands_run.py"


def documents() -> dict[str, Any]:
    """Links of the built site that lead nowhere; blocks of commands that are executed, `all` where none fails and
    every other one says why it is not."""
    site = build()
    every = [block for page in pages() for block in blocks(page)]
    executed = [block for block in every if block.reason is None]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", COMMANDS], cwd=ROOT, check=False, stdout=sys.stderr
    )
    return {
        "docs_links_broken": len(broken_links(site)),
        "docs_outside_requests": len(outside_requests(site)),
        "commands_of_docs": len(every),
        "commands_of_docs_not_executed": {block.code.splitlines()[0]: block.reason for block in every if block.reason},
        "commands_of_docs_executed": "all" if done.returncode == 0 and executed else "failed",
    }
