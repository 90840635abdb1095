"""The asyncio tasks that somebody has started and answers for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar
from weakref import WeakSet

log = logging.getLogger(__name__)

T = TypeVar("T")

_cancelled: WeakSet[asyncio.Task[Any]] = WeakSet()  # `Task.cancelling()` counts what `asyncio.timeout` does as well


class Owned:
    """Starts asyncio tasks, and knows those that still run."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, coroutine: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Run it as a task. What it raises is logged, unless somebody awaits it."""
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def shielded(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Await it as a task that goes on when the caller is cancelled."""
        task = self.start(coroutine, "shielded")
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_retrieve)
            raise

    def cancel(self) -> None:
        """Cancel all that run."""
        for task in tuple(self._tasks):
            cancel_once(task)

    async def finish(self) -> None:
        """Wait until none runs any more. The task that calls this is not waited for."""
        while running := self._tasks - {asyncio.current_task()}:
            await asyncio.wait(running)


def cancel_once(task: asyncio.Task[Any]) -> bool:
    """Cancel it. False: that was done here before, and a second time would end what it does because of the first."""
    if task in _cancelled:
        return False
    _cancelled.add(task)
    task.cancel()
    return True


async def outlast(task: asyncio.Task[None]) -> None:
    """Wait for a task that must end in any case: being cancelled meanwhile is put off until it has."""
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error


def _retrieve(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.debug("%s failed after nobody waited for it any more", task.get_name(), exc_info=error)
