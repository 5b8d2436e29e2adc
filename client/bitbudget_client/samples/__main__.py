"""`python -m bitbudget_client.samples PATH TARGET OPTIONS`: a process of its own for whoever loads no numpy.

OPTIONS is a JSON object with members of `SampleOptions`. Writes one JSON object: `path`, `classes` and `notes`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bitbudget_client.samples import SampleOptions, SamplesRefused, prepare

_PATHS = ("preprocessor", "tokenizer", "classes")


def main(path: Path, target: Path, given: dict[str, Any]) -> int:
    """Prepare the samples, or write why that cannot be done."""
    members: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items()
    }
    members |= {name: Path(members[name]) for name in _PATHS if members.get(name) is not None}
    try:
        made = prepare(path, SampleOptions(**members))
        made.save(target)
    except (SamplesRefused, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    json.dump({"path": str(target), "classes": made.classes, "notes": made.notes}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])))
