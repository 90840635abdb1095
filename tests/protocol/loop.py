"""Running a test in an event loop of its own, and noticing what it leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any

import uvloop

from protocol.sockets import shared_context
from tests.support import wait_for

DEADLINE_S = 20.0
until = partial(wait_for, timeout_s=DEADLINE_S)


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run the test under uvloop; a task or an open socket that it leaves is a failure."""
    uvloop.run(_guarded(test))


async def _guarded(test: Coroutine[Any, Any, None]) -> None:
    before = open_sockets()
    async with asyncio.timeout(DEADLINE_S):
        await test
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})
    assert open_sockets() == before


def open_sockets() -> int:
    """How many sockets of the shared context are open."""
    return sum(not socket.closed for socket in shared_context()._sockets)
