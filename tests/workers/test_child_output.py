from __future__ import annotations

import logging
import os

import pytest

from workers.child_output import LINES, Output


def test_a_flood_costs_some_lines_of_the_log_and_never_blocks(caplog: pytest.LogCaptureFixture, wait_until):
    reading, writing = os.pipe()
    with caplog.at_level(logging.INFO, logger="workers.child_output"), os.fdopen(writing, "wb", buffering=0) as pipe:
        output = Output(os.fdopen(reading, "rb"), 7)
        for _ in range(3 * LINES):
            pipe.write(b"x" * 100_000 + b"\n")  # more than a pipe holds
        wait_until(lambda: "dropped" in caplog.text)
        assert len(caplog.records) == LINES + 1
        output.renew()
        pipe.write(b"again \xff\n")
        wait_until(lambda: "process 7: again" in caplog.text)
