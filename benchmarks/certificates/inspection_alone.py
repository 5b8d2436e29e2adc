"""What an inspection says of the files of `benchmarks.certificates.defects`, without a sample.

    python -m benchmarks.certificates.inspection_alone [WORD]

Every case whose name holds WORD, one line each; the last line is one JSON object. `caught` counts the defects that the
file itself shows, `false_alarms` the honest files with a defect found.
"""

from __future__ import annotations

import json
import sys
import time

import onnx

from benchmarks.certificates.defects import cases
from quantization.inspection.findings import Finding, Severity
from quantization.inspection.inspection import inspect


def main() -> None:
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    counts = {"defects": 0, "caught": 0, "measured_only": 0, "honest": 0, "false_alarms": 0}
    seconds = 0.0
    for case in cases():
        if word not in case.name:
            continue
        begin = time.perf_counter()
        found = inspect(onnx.load_from_string(case.float_file), onnx.load_from_string(case.quantized_file))
        seconds += time.perf_counter() - begin
        defects = [finding for finding in found.findings if finding.severity is Severity.DEFECT]
        counts["defects" if case.is_defective else "honest"] += 1
        counts["caught"] += case.is_defective and bool(defects)
        counts["measured_only"] += case.caught_by == "measurement"
        counts["false_alarms"] += not case.is_defective and bool(defects)
        verdict = "right" if bool(defects) == (case.caught_by == "inspection") else "WRONG"
        print(f"{verdict}  {case.name}: {'; '.join(map(_line, found.findings)) or 'nothing'}")
    print(json.dumps(counts | {"seconds": round(seconds, 1)}))


def _line(finding: Finding) -> str:
    return f"{finding.severity} {finding.code} {finding.where[:40]}: {finding.text[:110]}"


if __name__ == "__main__":
    main()
