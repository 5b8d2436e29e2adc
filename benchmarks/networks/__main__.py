"""Small networks of every kind that people have, each through a whole job and looked at from outside.

    python -m benchmarks.networks [--quick] [--only NAME ...]

One line for each network, and one more for everything that is wrong with it; then the standard's own tests of its
operators, unless networks are named. The last line is one JSON object.
`--quick` allows two formats instead of seven, and takes one method of sensitivity.
"""

from __future__ import annotations

import argparse
import json
import os
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from benchmarks.networks import standard
from benchmarks.networks.networks import NAMES
from benchmarks.networks.trial import PROCESSES, run, summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="*", choices=NAMES, default=NAMES, metavar="NAME")
    parser.add_argument("--processes", type=int, default=PROCESSES)
    arguments = parser.parse_args()
    start = time.perf_counter()
    reports = []
    for report in run(arguments.only, arguments.quick, arguments.processes):
        reports.append(report)
        print(report.line(), flush=True)
    figures = summary(reports)
    if arguments.only is NAMES:
        tests = standard.outcomes()
        print("\n".join(standard.lines(tests)), flush=True)
        figures |= standard.summary(tests)
    figures |= {"seconds": round(time.perf_counter() - start)}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
