"""Requests of a project by the minute."""

from __future__ import annotations

import logging
import math
import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage, RedisStorage, Storage
from limits.strategies import FixedWindowRateLimiter
from redis.exceptions import RedisError

from app.access.quotas import quota_exceeded

logger = logging.getLogger(__name__)

REDIS_SECONDS = 0.5
"""How long a request waits for Redis."""
AWAY_SECONDS = 5.0
"""How long requests are not counted after Redis did not answer."""


class Rates:
    """Counts in Redis, where the broker is one, so that all API processes count together; else in this process.

    While Redis is away nothing is counted and nobody is refused: the limit keeps a project from crowding out others,
    and the service goes on without Redis.
    """

    def __init__(self, broker_url: str) -> None:
        self._limiter = FixedWindowRateLimiter(_storage(broker_url))
        self._away_until = 0.0

    def take(self, project_id: str, most: int | None) -> None:
        """Count a request of the project, of which there may be `most` in a minute; None: any number, not counted.

        Raises:
            AppError: `quota_exceeded`.
        """
        if most is None or time.monotonic() < self._away_until:
            return
        item = RateLimitItemPerMinute(most)
        try:
            if self._limiter.hit(item, project_id):
                return
            ends_at = self._limiter.get_window_stats(item, project_id).reset_time
        except RedisError:
            self._away_until = time.monotonic() + AWAY_SECONDS
            logger.warning("Redis does not answer; for %g s requests are not counted", AWAY_SECONDS, exc_info=True)
            return
        # Plus one: the clock of Redis may be a little behind ours.
        left_seconds = max(1, math.ceil(ends_at - time.time()) + 1)
        raise quota_exceeded(
            f"the project may send {most} requests a minute, and has sent them", "Send fewer", left_seconds
        )

    def used(self, project_id: str, most: int | None) -> int | None:
        """Requests of this minute so far; None: they are not counted."""
        if most is None:
            return None
        item = RateLimitItemPerMinute(most)
        try:
            return most - self._limiter.get_window_stats(item, project_id).remaining
        except RedisError:
            return None


def _storage(broker_url: str) -> Storage:
    if not broker_url.startswith(("redis://", "rediss://")):
        return MemoryStorage()
    return RedisStorage(
        broker_url,
        key_prefix="bitbudget-requests",
        socket_timeout=REDIS_SECONDS,
        socket_connect_timeout=REDIS_SECONDS,
    )
