"""The loop that sends what is due. Any number may run at once: a try belongs to whoever has begun it."""

from __future__ import annotations

import asyncio
import logging
import threading
from asyncio import FIRST_COMPLETED
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from random import Random

from sqlalchemy.exc import SQLAlchemyError

from app.delivery.addresses import Reach, parse_networks
from app.delivery.sender import Answer, Sender
from app.settings import Settings
from app.store import webhooks
from app.store.engine import Sessions, clock
from app.store.webhooks import Attempt

logger = logging.getLogger(__name__)

MOST_AT_ONCE = 64
MOST_TO_ONE = 4
DATABASE_THREADS = 4
STOP_SECONDS = 1.0
"""How long tries that run may take to end when the loop is told to stop; what is cut off is sent again."""
LEASE_IN_TIMEOUTS = 3
"""After so many time limits of a try its sender is taken for dead."""
KEEP = timedelta(days=30)
CLEAN_AT_ONCE = 1000
JITTER = 0.25


@dataclass(frozen=True, slots=True)
class Schedule:
    """Pauses between tries: `first`, then doubled each time up to `longest`, each longer or shorter by chance."""

    first: timedelta
    longest: timedelta = timedelta(hours=6)

    def pause(self, tries: int, random: Random) -> timedelta:
        """The pause after so many tries (from 1 on), within 25 % of its place in the series."""
        factor = 2.0 ** min(tries - 1, 32)
        return min(self.first * factor, self.longest) * random.uniform(1 - JITTER, 1 + JITTER)


class Deliverer:
    """Sends messages between `run` and `stop`, several at once, so that a receiver that hangs holds up its own only."""

    def __init__(self, settings: Settings, sessions: Sessions, random: Random | None = None) -> None:
        self._sessions = sessions
        self._reach = Reach(parse_networks(settings.webhook_networks))
        self._seconds = settings.webhook_timeout_seconds
        self._lease = timedelta(seconds=LEASE_IN_TIMEOUTS * settings.webhook_timeout_seconds)
        self._interval = settings.dispatch_interval_seconds
        self._schedule = Schedule(timedelta(seconds=settings.webhook_retry_seconds))
        self._random = random or Random()  # noqa: S311 - spreads tries, keeps no secret
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._wake: Callable[[], object] | None = None

    def run(self) -> None:
        """Work until `stop`; a database that is away is waited for, and no error ends it."""
        while not self._stopping.is_set():
            try:
                asyncio.run(self._run())
            except Exception:
                # Nobody watches this thread: without it webhooks would be told nothing, and nobody would know.
                logger.exception("sending messages to webhooks failed, and begins anew")
                self._stopping.wait(self._interval)

    def stop(self) -> None:
        """Make `run` return, within about a second."""
        self._stopping.set()
        with self._lock:
            if self._wake is not None:
                self._wake()

    def step(self) -> int:
        """One round: send what is due, of each webhook one message; returns how many were tried.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the database does not answer.
        """
        return asyncio.run(self._step())

    def clean(self) -> int:
        """Forget deliveries that ended long ago, a bounded number of them; returns how many.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the database does not answer.
        """
        with self._sessions.begin() as session:
            return webhooks.remove_deliveries(session, clock(session) - KEEP, CLEAN_AT_ONCE)

    async def _step(self) -> int:
        attempts = self._take(MOST_AT_ONCE, ())
        async with Sender(self._reach, self._seconds) as sender:
            for attempt in attempts:
                self._record(attempt, await sender.send(attempt))
        return len(attempts)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        # Looking names up has threads of its own: a name server that hangs must not keep results from being written.
        loop.set_default_executor(ThreadPoolExecutor(MOST_AT_ONCE + 1, "webhook-names"))
        with self._woken(loop) as stop, ThreadPoolExecutor(DATABASE_THREADS, "webhook-database") as database:
            async with Sender(self._reach, self._seconds) as sender:
                running: dict[asyncio.Task[None], str] = {}
                while not self._stopping.is_set():
                    busy = [webhook for webhook, count in Counter(running.values()).items() if count >= MOST_TO_ONE]
                    free = MOST_AT_ONCE - len(running)
                    attempts = await loop.run_in_executor(database, self._take_or_wait, free, busy)
                    for attempt in attempts:
                        task = asyncio.create_task(self._deliver(sender, database, attempt))
                        running[task] = attempt.webhook_id
                    if not attempts:
                        await asyncio.wait({stop, *running}, timeout=self._interval, return_when=FIRST_COMPLETED)
                    for ended in [task for task in running if task.done()]:
                        del running[ended]
                await _end(running)

    @contextmanager
    def _woken(self, loop: asyncio.AbstractEventLoop) -> Iterator[asyncio.Future[None]]:
        """A future that `stop`, called from another thread, makes done."""
        future: asyncio.Future[None] = loop.create_future()

        def done() -> None:
            if not future.done():
                future.set_result(None)

        with self._lock:
            self._wake = partial(loop.call_soon_threadsafe, done)
        try:
            yield future
        finally:
            with self._lock:
                self._wake = None

    async def _deliver(self, sender: Sender, database: ThreadPoolExecutor, attempt: Attempt) -> None:
        try:
            answer = await sender.send(attempt)
            await asyncio.get_running_loop().run_in_executor(database, self._record, attempt, answer)
        except Exception:
            # Whatever it was, the other messages go on; the try counts as lost when its lease ends.
            logger.exception("what came of the delivery %s is not written down; it is sent again", attempt.delivery_id)

    def _take_or_wait(self, limit: int, busy: Collection[str]) -> Sequence[Attempt]:
        try:
            return self._take(limit, busy)
        except SQLAlchemyError as error:
            logger.warning("the database does not answer: %s", error)
            return ()

    def _take(self, limit: int, busy: Collection[str]) -> Sequence[Attempt]:
        if limit == 0:
            return ()
        with self._sessions.begin() as session:
            return webhooks.take_due(session, clock(session), self._lease, limit, busy)

    def _record(self, attempt: Attempt, answer: Answer) -> None:
        with self._sessions.begin() as session:
            now = clock(session)
            if answer.status is not None and answer.taken:
                webhooks.record_success(session, attempt, answer.status, now)
                return
            pause = self._schedule.pause(attempt.number, self._random)
            webhooks.record_failure(session, attempt, answer.status, answer.error, now, pause)
        logger.warning(
            "webhook %s: try %d of %s: %s", attempt.webhook_id, attempt.number, attempt.delivery_id, answer.error
        )


async def _end(running: Collection[asyncio.Task[None]]) -> None:
    """Give what runs a moment to end in good order, then cut it off."""
    if not running:
        return
    _, late = await asyncio.wait(running, timeout=STOP_SECONDS)
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
