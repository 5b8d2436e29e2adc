"""`python -m pipeline FILE`: what a quantized file holds, as JSON. `bitbudget audit` shows it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pipeline import audit
from quantization.errors import FileNotAudited


def main(path: Path) -> int:
    """Write it, or why it cannot be read."""
    try:
        json.dump(audit(path), sys.stdout)
    except (FileNotAudited, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
