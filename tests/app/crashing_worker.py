"""A worker for `test_crashes.py`, run as a program: claims jobs, works a few milliseconds, now and then stalls.

Usage: crashing_worker.py DATABASE_URL NAME LEASE_SECONDS SEED. Writes a line for each finish that was fenced off.
"""

from __future__ import annotations

import random
import sys
import time
from datetime import timedelta

from sqlalchemy import select

from app.lifecycle import claims
from app.lifecycle.states import Artifact, Heartbeat, Outcome, Progress
from app.store.blobs import write_bytes
from app.store.engine import Sessions, open_sessions
from app.store.tables import JobRow


def main(database_url: str, name: str, lease: timedelta, seed: int) -> None:
    sessions = open_sessions(database_url)
    choose = random.Random(seed)
    turn = 0
    while True:
        with sessions.read() as session:
            queued = session.scalars(select(JobRow.id).where(JobRow.state == "queued")).all()
        if not queued:
            time.sleep(0.02)
            continue
        turn += work(sessions, choose.choice(queued), name, lease, choose, stall=turn % 5 == 2)


def work(sessions: Sessions, job_id: str, name: str, lease: timedelta, choose: random.Random, *, stall: bool) -> bool:
    """Work on a job; False if somebody else has it."""
    claim = claims.claim(sessions, job_id, name, lease)
    if claim is None:
        return False
    for step in range(3):
        time.sleep(choose.uniform(0, 0.02))
        if claims.heartbeat(sessions, claim, lease, Progress(f"stage{step}", step / 3)) is Heartbeat.LOST:
            return True
    if stall:
        time.sleep(3 * lease.total_seconds())  # the machine sleeps, and then goes on as if nothing had happened
    blob = write_bytes(sessions, f"{name} {claim.attempt} {job_id}".encode())
    artifacts = {"plan": Artifact(blob, "application/json")}
    if not claims.finish(sessions, claim, Outcome.MET, {"owner": name, "attempt": claim.attempt}, artifacts):
        sys.stdout.write("fenced\n")
        sys.stdout.flush()
    return True


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], timedelta(seconds=float(sys.argv[3])), int(sys.argv[4]))
