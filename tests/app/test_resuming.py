"""The command's own upload over a line that breaks: the short form of `benchmarks.service.resuming`."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from app.api.resumable import PIECE_BYTES
from app.cli import client
from app.cli.client import Client, ServerProblem
from benchmarks.service.resuming import cut_upload


def test_a_cut_costs_at_most_a_chunk(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PIECES_FROM_BYTES", 1)
    measured = cut_upload(server.port, 6, 2_900_000)
    assert measured["upload_cuts"] >= 6
    assert measured["upload_is_whole"]
    assert measured["upload_cut_50_times_resent_bytes"] <= PIECE_BYTES
    # Not from the beginning each time: that would be half of it for each cut.
    assert measured["upload_cut_resent_bytes_in_all"] < 2_900_000


def test_a_file_that_changes_while_it_is_sent_is_not_taken_for_what_it_was(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PIECES_FROM_BYTES", 1)
    path = tmp_path / "model"
    path.write_bytes(os.urandom(2_000_000))
    other = os.urandom(2_000_000)
    with Client(str(server.client.base_url)) as uploading:
        with pytest.raises(ServerProblem, match="changed while it was sent"):
            uploading.upload("model", path, lambda _: path.write_bytes(other) and None, "m")
        assert uploading.upload("model", path, lambda _: None, "m") == hashlib.sha256(other).hexdigest()
