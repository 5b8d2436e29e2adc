"""SQL on the queue: whose turn it is, and who computes which chunk."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Select, delete, func, or_, select, update
from sqlalchemy.orm import Session

from app.store import descriptions
from app.store.engine import clock, project_of
from app.store.statements import insert
from app.store.tables import ChunkClaimRow, JobRow, ProjectRow, WorkerRow


@dataclass(frozen=True, slots=True)
class Turn:
    """The job that is to be claimed next."""

    job_id: str
    project_id: str


def waits(session: Session, most_running: int | None = None) -> bool:
    """Whether a job waits that may be claimed."""
    return session.execute(_by_turn(most_running, ())).first() is not None


def next_queued(session: Session, most_running: int | None, full: Collection[str]) -> Turn | None:
    """The job whose turn it is, locked; see `app.lifecycle.claims.claim_next`.

    Jobs that another transaction is about to claim are passed over, so that claimers do not wait for each other. On
    SQLite a writing transaction has the whole database.

    Args:
        full: projects that are known to run as many jobs as they may.
    """
    found = session.execute(_by_turn(most_running, full).with_for_update(of=JobRow, skip_locked=True)).first()
    return None if found is None else Turn(*found)


def take_turn(session: Session, project_id: str, most_running: int | None, now: datetime) -> bool:
    """Let the project have its turn; False if meanwhile it runs as many jobs as it may.

    Holds the row of the project, and with it every other claim of its jobs, to the end of the transaction.
    """
    quota = session.scalars(
        update(ProjectRow).where(ProjectRow.id == project_id).values(claimed_at=now).returning(ProjectRow.max_running)
    ).one()
    quota = most_running if quota is None else quota
    if quota is None:
        return True
    running = session.execute(_running().where(JobRow.project_id == project_id)).first()
    return running is None or running[1] < quota


def find_help_wanted(session: Session, processor: str, but_not: Collection[str]) -> Turn | None:
    """The running job that may be helped with from here: the one with the most chunks that nobody works on.

    Args:
        processor: the kind of processor here; jobs whose workers have another are left alone.
    """
    leader = func.substr(JobRow.owner, 1, func.length(WorkerRow.name) + 1) == WorkerRow.name + "/"
    found = session.execute(
        select(JobRow.id, JobRow.project_id)
        .join(WorkerRow, leader)
        .where(JobRow.state == "running", JobRow.open_chunks > 0, ~JobRow.cancel_requested)
        .where(JobRow.id.not_in(but_not), WorkerRow.processor == processor)
        .order_by(JobRow.open_chunks.desc(), JobRow.id)
        .limit(1)
    ).first()
    return None if found is None else Turn(*found)


def demand(session: Session) -> int:
    """How many more workers there is work for now: queued jobs, chunks that others may take, and descriptions."""
    queued = select(func.count()).where(JobRow.state == "queued").scalar_subquery()
    chunks = select(func.coalesce(func.sum(JobRow.open_chunks), 0)).where(JobRow.state == "running").scalar_subquery()
    return int(session.execute(select(queued + chunks)).scalar_one()) + descriptions.waiting(session, clock(session))


def take_chunk(session: Session, key: str, owner: str, now: datetime, until: datetime) -> bool:
    """Whether `owner` is the one to compute the chunk `key` of this project: it is free, its own, or abandoned."""
    values = {"project_id": project_of(session), "key": key, "owner": owner, "lease_until": until}
    taken = (
        insert(session, ChunkClaimRow)
        .values(**values)
        .on_conflict_do_update(
            index_elements=["project_id", "key"],
            set_={"owner": owner, "lease_until": until},
            where=or_(ChunkClaimRow.lease_until < now, ChunkClaimRow.owner == owner),
        )
        .returning(ChunkClaimRow.key)
    )
    return session.scalar(taken) is not None


def give_chunk(session: Session, key: str) -> None:
    """The chunk `key` of this project is stored."""
    ours = ChunkClaimRow.project_id == project_of(session), ChunkClaimRow.key == key
    session.execute(delete(ChunkClaimRow).where(*ours))


def give_back_chunk(session: Session, key: str, owner: str) -> bool:
    """Whether `owner` had taken the chunk `key` of this project, which is free now."""
    ours = ChunkClaimRow.project_id == project_of(session), ChunkClaimRow.key == key, ChunkClaimRow.owner == owner
    return session.scalar(delete(ChunkClaimRow).where(*ours).returning(ChunkClaimRow.key)) is not None


def keep_chunks(session: Session, owner: str, until: datetime) -> None:
    """`owner` still computes what it has taken."""
    session.execute(update(ChunkClaimRow).where(ChunkClaimRow.owner == owner).values(lease_until=until))


def free_chunks(session: Session, owner_prefix: str) -> None:
    """Those whose names begin so compute nothing any more."""
    begins = func.substr(ChunkClaimRow.owner, 1, len(owner_prefix)) == owner_prefix
    session.execute(delete(ChunkClaimRow).where(begins))


def remove_stale_chunks(session: Session, now: datetime) -> None:
    """Forget what dead workers had taken and nobody took after them."""
    session.execute(delete(ChunkClaimRow).where(ChunkClaimRow.lease_until < now))


def _by_turn(most_running: int | None, full: Collection[str]) -> Select[str, str]:
    running = _running().subquery()
    count = func.coalesce(running.c.count, 0)
    quota = func.coalesce(ProjectRow.max_running, most_running)
    return (
        select(JobRow.id, JobRow.project_id)
        .join(ProjectRow, ProjectRow.id == JobRow.project_id)
        .outerjoin(running, running.c.project_id == JobRow.project_id)
        .where(JobRow.state == "queued", JobRow.project_id.not_in(full), or_(quota.is_(None), count < quota))
        .order_by(
            count, ProjectRow.claimed_at.asc().nulls_first(), JobRow.priority.desc(), JobRow.created_at, JobRow.id
        )
        .limit(1)
    )


def _running() -> Select[str, int]:
    """How many jobs run, by project; none where none does."""
    count = func.count().label("count")
    return select(JobRow.project_id, count).where(JobRow.state == "running").group_by(JobRow.project_id)
