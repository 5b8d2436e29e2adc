"""Chunks of a stage: each is computed by whichever process takes it, and read by all others.

Every process that works on a job runs the same deterministic stages on the same store. The results of chunks come in
their order; while somebody else computes the next one, a process takes one that nobody has begun yet. So one process
alone computes exactly what it reads, in order, and what is computed twice is only what its process took and then died.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from pipeline.store import Store

# seconds between two looks at what somebody else computes: first, and at most
SHORTEST_PAUSE, LONGEST_PAUSE = 0.05, 0.5

Compute = Callable[[int], bytes]
"""The result of the chunk at a place."""


class StageOver(Exception):
    """A stage that this process helps with has its result."""


class Chunks:
    """Chunks in this process.

    Args:
        check: raises if the process has to stop, and `StageOver` if there is nothing left to help with. Called before
            anything is taken, and whenever this process waits.
    """

    def __init__(self, store: Store, check: Callable[[], None]) -> None:
        self._store = store
        self._check = check

    def results(
        self,
        keys: Sequence[str],
        compute: Compute,
        ahead: int | None = None,
        opened: Callable[[int], None] = lambda _count: None,
    ) -> Iterator[bytes]:
        """The results in order, each when it is asked for.

        Args:
            keys: where the results are stored; each names all that its result depends on.
            ahead: how many of the chunks behind the one that is asked for may be computed meanwhile; None for all. Who
                may stop asking names a number.
            opened: told how many of them nobody has begun, as far as this process knows.
        """
        begun = 0  # whatever stands before it was begun by somebody
        for place in range(len(keys)):
            begun = max(begun, place + 1)
            stop = len(keys) if ahead is None else min(len(keys), place + 1 + ahead)
            opened(max(stop - begun, 0))
            pause = SHORTEST_PAUSE
            while (result := self.result(keys[place], partial(compute, place))) is None:
                if begun < stop:
                    begun += 1
                    opened(stop - begun)
                    self.computed(keys[begun - 1], partial(compute, begun - 1))
                    pause = SHORTEST_PAUSE
                else:
                    time.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
            yield result

    def result(self, key: str, compute: Callable[[], bytes]) -> bytes | None:
        """What is stored under `key`, or is computed now; None while somebody else computes it."""
        self._check()
        stored = self._store.load(key)
        return self._taken(key, compute) if stored is None else stored

    def computed(self, key: str, compute: Callable[[], bytes]) -> bool:
        """Compute what is neither stored nor computed by somebody else; whether it was to be computed."""
        self._check()
        return not self._store.exists(key) and self._taken(key, compute) is not None

    def stored(self, key: str) -> bytes | None:
        """What is stored under `key`."""
        self._check()
        return self._store.load(key)

    def _taken(self, key: str, compute: Callable[[], bytes]) -> bytes | None:
        if not self._store.take(key):
            return None
        try:
            data = self._store.load(key)  # somebody may have stored it, and let go, since it was looked for
            if data is None:
                self._check()
                data = compute()
                self._check()
                return self._store.store(key, data)
        except BaseException:
            self._store.give_back(key)
            raise
        self._store.give_back(key)
        return data
