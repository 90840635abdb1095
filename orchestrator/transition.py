"""A change of tasks that is under way, as `update_task` gives it."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import nullcontext
from typing import Any

from orchestrator.task_failed import ConversationOver
from orchestrator.user_code import running_code
from protocol.errors import AntiphonError


class Transition:
    """Awaiting it raises `TaskFailed` if the task can't be entered."""

    def __init__(self, doing: asyncio.Task[AntiphonError | RuntimeError | None]) -> None:
        self._doing = doing

    def __await__(self) -> Generator[Any, None, None]:
        return self._wait().__await__()

    async def _wait(self) -> None:
        code = running_code.get()
        with code.deadline.standing_still() if code is not None else nullcontext():
            await asyncio.wait({self._doing})
        if self._doing.cancelled():
            raise ConversationOver("the conversation has ended")
        if (error := self._doing.result()) is not None:
            raise error
