"""Results of stages and chunks: bytes by key, each stored once however many workers compute it."""

from __future__ import annotations

import hashlib

from app.store.blobs import read_bytes, write_bytes
from app.store.engine import Sessions
from app.store.stages import get_stage_result, put_stage_result, remove_stage_results


def exists(sessions: Sessions, key: str) -> bool:
    """Whether a result is stored under `key`."""
    return get_stage_result(sessions, key) is not None


def load(sessions: Sessions, key: str) -> bytes | None:
    """The result under `key`; None if there is none."""
    blob = get_stage_result(sessions, key)
    return None if blob is None else read_bytes(sessions, blob)


def store(sessions: Sessions, key: str, data: bytes) -> bytes:
    """Store `data` under `key` and return the result that counts: the first one stored."""
    mine = write_bytes(sessions, data)
    counts = put_stage_result(sessions, key, mine)
    return data if counts == mine else read_bytes(sessions, counts)


def chunk_key(stage_key: str, name: str) -> str:
    """The key of a chunk, below the key of its stage."""
    return f"{stage_key}/{hashlib.sha256(name.encode()).hexdigest()}"


def cache_key(name: str) -> str:
    """The key of what belongs to no stage; no stage's key begins like this, so that it is never dropped with chunks."""
    return f"cached/{hashlib.sha256(name.encode()).hexdigest()}"


def drop_chunks(sessions: Sessions, stage_key: str) -> None:
    """Forget the chunks of a stage whose own result is stored."""
    remove_stage_results(sessions, f"{stage_key}/")
