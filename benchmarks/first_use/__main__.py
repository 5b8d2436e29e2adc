"""All figures of the first use in one object on the last line.

    python -m benchmarks.first_use [PART ...]

PART: only these, e.g. `pages`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.first_use.contract import contract_failures
from benchmarks.first_use.demo import demo
from benchmarks.first_use.documents import documents
from benchmarks.first_use.pages import pages


def contract() -> dict[str, Any]:
    """How often an answer of the API is not as its description says, without keys and with them."""
    failures = [*contract_failures(), *contract_failures(with_keys=True)]
    sys.stderr.writelines(f"{line}\n" for line in failures)
    return {"schemathesis_failures": len(failures)}


PARTS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "demo": demo,
    "documents": documents,
    "contract": contract,
    "pages": pages,
}
"""Every part by its name, in the order in which they run."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="*", help=f"any of {', '.join(PARTS)}; none: all")
    named = parser.parse_args().part
    if unknown := sorted(set(named) - set(PARTS)):
        parser.error(f"there is no part {', '.join(unknown)}; expected any of {', '.join(PARTS)}")
    figures: dict[str, Any] = {}
    for name in named or PARTS:
        began = time.monotonic()
        found = PARTS[name]()
        sys.stderr.write(f"{name} ({time.monotonic() - began:.0f} s): {json.dumps(found)}\n")
        figures |= found
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
