"""A time limit for a user's code that stands still while the code waits for the caller: an InlineTask, a speech."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from orchestrator.owned import cancel_once

log = logging.getLogger(__name__)

T = TypeVar("T")

GRACE_S = 0.2  # for code that has a time limit of its own of the same length: its own comes first
STUBBORN_S = 1.0  # for code that was cancelled to end; then it is left behind


class Deadline:
    """Runs one coroutine for at most `seconds` (None: as long as it likes) between the times in which it waits.

    And `GRACE_S` more, in which it may find out by itself that it has waited too long.

    After it has stood still the full time runs anew: code that has just been given what it waited for must not be
    stopped before it can use it.
    """

    def __init__(self, seconds: float | None, what: str) -> None:
        self.expired = False
        self.cancelled = False  # by `cancel()`
        self._seconds = seconds
        self._what = what
        self._held = 0
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[Any] | None = None
        self._over: asyncio.Future[None] | None = None
        self._may_stand_still = True

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it in a task of its own. Raises `TimeoutError` when its time is over, else what the coroutine raises.

        Cancelling cancels the coroutine. One that goes on in spite of it is left behind, and the log says so.
        """
        self._task = task = asyncio.get_running_loop().create_task(coroutine, name=self._what)
        self._over = over = asyncio.get_running_loop().create_future()
        task.add_done_callback(lambda _: None if over.done() else over.set_result(None))
        self._arm()
        try:
            await over
        except asyncio.CancelledError:
            await self._stop(task)
            raise
        finally:
            self._disarm()
        if self.expired:
            await self._stop(task)
            raise TimeoutError
        return task.result()

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """The time does not count in which this is entered."""
        self._held += 1
        if self._held == 1 and self._may_stand_still:
            self._disarm()
        try:
            yield
        finally:
            self._held -= 1
            if self._held == 0:
                self._arm()

    def stand_still_no_more(self) -> None:
        """From now on all time counts: the conversation ends, and nothing that the code waits for will come."""
        self._may_stand_still = False
        self._arm()

    def cancel(self) -> None:
        """Cancel the code: nobody wants its result any more."""
        if self._task is not None:
            self.cancelled = True
            cancel_once(self._task)

    def _arm(self) -> None:
        if self._seconds is None or self._timer is not None or (self._held and self._may_stand_still):
            return
        if self._task is not None and not self._task.done():
            self._timer = asyncio.get_running_loop().call_later(self._seconds + GRACE_S, self._expire)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        """Time is over: `run()` goes on, and stops the code."""
        self._timer = None
        self._seconds = None
        self.expired = True
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    async def _stop(self, task: asyncio.Task[Any]) -> None:
        cancel_once(task)
        held = True
        while held and not task.done():  # what it has awaited, an inline task, takes leave within a time of its own
            held = self._held > 0
            await asyncio.wait({task}, timeout=STUBBORN_S)
        if not task.done():
            log.error("%s goes on though it was cancelled, and is left behind", self._what)
        elif not task.cancelled() and (error := task.exception()) is not None:
            log.debug("%s raised while it was cancelled", self._what, exc_info=error)
