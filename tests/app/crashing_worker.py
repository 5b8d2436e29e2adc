"""A worker for `test_crashes.py`, run as a program: claims jobs, works a few milliseconds, now and then stalls.

Usage: crashing_worker.py DATABASE_URL NAME SEED. Writes `stalls NAME JOB ATTEMPT` when it stalls, which lasts until the
job was taken from it, and `fenced NAME JOB ATTEMPT` when it is then refused.
"""

from __future__ import annotations

import random
import sys
import time
from datetime import timedelta

from sqlalchemy import select

from app.lifecycle import claims
from app.lifecycle.states import Artifact, Claim, Heartbeat, Outcome, Progress
from app.store.blobs import write_bytes
from app.store.engine import Sessions, open_sessions
from app.store.tables import JobRow

# It does not end by itself: the test says whose lease is over.
LEASE = timedelta(hours=1)


def main(database_url: str, name: str, seed: int) -> None:
    sessions = open_sessions(database_url)
    choose = random.Random(seed)
    turn = 0
    while True:
        claim = claims.claim_next(sessions, name, LEASE)
        if claim is None:
            time.sleep(0.02)
            continue
        work(sessions.of(claim.project_id), claim, choose, stall=turn % 5 == 2)
        turn += 1


def work(sessions: Sessions, claim: Claim, choose: random.Random, *, stall: bool) -> None:
    """Work on a job that was claimed."""
    name, job_id = claim.owner, claim.job_id
    for step in range(3):
        time.sleep(choose.uniform(0, 0.02))
        if claims.heartbeat(sessions, claim, LEASE, Progress(f"stage{step}", step / 3)) is Heartbeat.LOST:
            return
    if stall:  # the machine sleeps, and then goes on as if nothing had happened
        _say("stalls", name, job_id, str(claim.attempt))
        while _attempt(sessions, job_id) == ("running", claim.attempt):
            time.sleep(0.01)
    blob = write_bytes(sessions, f"{name} {claim.attempt} {job_id}".encode())
    artifacts = {"plan": Artifact(blob, "application/json")}
    if not claims.finish(sessions, claim, Outcome.MET, {"owner": name, "attempt": claim.attempt}, artifacts):
        _say("fenced", name, job_id, str(claim.attempt))


def _attempt(sessions: Sessions, job_id: str) -> tuple[str, int]:
    with sessions.read() as session:
        return tuple(session.execute(select(JobRow.state, JobRow.attempt).where(JobRow.id == job_id)).one())


def _say(*words: str) -> None:
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
