"""What is recognised in a file, before there is a job: `python -m pipeline.describing model|dataset FILE` as JSON.

Loads what a kind of file needs when it is asked for one, so that looking into samples takes no second.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

MAX_BYTES = 16 << 30
"""Of the arrays of a file of one's own."""


def describe(kind: str, path: Path, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """The description of the `model` or `dataset` (`kind`) at `path`, as `app.schemas.descriptions` says.

    Raises:
        DatasetError, NetworkError: it cannot be read.
        OSError: it cannot be opened.
    """
    if kind == "dataset":
        from evaluation.description import described

        return described(path, max_bytes)
    from pipeline.model_description import described_model

    return described_model(path)


def main(kind: str, path: Path) -> int:
    """Write it, or why it cannot be read."""
    try:
        json.dump(describe(kind, path), sys.stdout, allow_nan=False)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
