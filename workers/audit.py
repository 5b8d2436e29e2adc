"""`python -m workers.audit FILE`: what a quantized file holds, as JSON. `bitbudget audit` shows it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from quantization.errors import FileNotAudited
from quantization.export.audit import audit


def main(path: Path) -> int:
    """Write it, or why it cannot be read."""
    try:
        found = audit(path.read_bytes())
    except (FileNotAudited, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    weights = [
        {
            "name": weight.name,
            "shape": list(weight.shape),
            "format": weight.format.name,
            "bits": weight.bits,
            "codes_bytes": weight.size_bytes,
            "scales_bytes": weight.scale_bytes,
        }
        for weight in found.weights
    ]
    activations = [
        {"name": one.name, "bits": one.bits, "scale": one.scale, "zero_point": one.zero_point}
        for one in found.activations
    ]
    json.dump({"total_bytes": found.total_bytes, "weights": weights, "activations": activations}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
