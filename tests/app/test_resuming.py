"""The upload of commands over a line that breaks: the short form of `benchmarks.service.resuming`."""

from __future__ import annotations

from typing import Any

from app.api.resumable import PIECE_BYTES
from benchmarks.service.resuming import cut_upload


def test_a_cut_costs_at_most_a_chunk(server: Any) -> None:
    measured = cut_upload(server.port, 6, 2_900_000)
    assert measured["upload_cuts"] >= 6
    assert measured["upload_is_whole"]
    assert measured["upload_cut_50_times_resent_bytes"] <= PIECE_BYTES
    # Not from the beginning each time: that would be half of it for each cut.
    assert measured["upload_cut_resent_bytes_in_all"] < 2_900_000
