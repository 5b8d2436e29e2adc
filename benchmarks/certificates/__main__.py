"""Certificates on a zoo of networks: kept words, coverage of intervals, planted defects.

    python -m benchmarks.certificates [--quick] [--only NAME ...]

The last line is one JSON object. `--quick` takes one network of each family, few jobs for coverage, and the defects.
"""

from __future__ import annotations

import argparse
import json
import time

from benchmarks.certificates import coverage, kept_word, planted
from benchmarks.certificates.networks import NAMES

QUICK = (
    "digits_agreement",
    "unequal_classes",
    "face",
    "tagger_unlabelled",
    "denoiser",
    "regressor_targets",
    "single_number",
    "wake_word",
    "embedding",
    "topk",
    "two_headed",
    "gru_step",
    "decoder_cache",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="*", help="these networks, and nothing but whether they keep their word")
    arguments = parser.parse_args()
    start = time.perf_counter()
    names = arguments.only or (QUICK if arguments.quick else NAMES)
    reports = []
    for report in kept_word.run(names):
        reports.append(report)
        print(f"{time.perf_counter() - start:.0f} s  {report.line()}", flush=True)
    figures = kept_word.summary(reports)
    if not arguments.only:
        parts = []
        for part in coverage.run(*((10, 5) if arguments.quick else ())):
            parts.append(part)
            print(f"{time.perf_counter() - start:.0f} s  {part.line()}", flush=True)
        figures |= coverage.summary(parts)
        figures |= planted.run()
    figures["seconds"] = round(time.perf_counter() - start)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
