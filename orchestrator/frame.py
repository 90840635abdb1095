"""A frame: one running of a task, from before its `on_enter` until after its `on_exit`. State only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from orchestrator.chat import ChatItem
    from orchestrator.task import AgentTask
    from orchestrator.user_code import UserCode

FrameState = Literal["entering", "active", "leaving", "left"]


class Frame:
    """`awaited_by`: the code that waits for an inline task's result; None for a task that nobody waits for."""

    def __init__(self, task: AgentTask, changed: Callable[[], None], awaited_by: UserCode | None = None) -> None:
        self.task = task
        self.state: FrameState = "entering"
        self.begun = False  # its on_enter was begun: on_exit is owed
        self.entered = False  # its on_enter has succeeded
        self.awaited_by = awaited_by
        self.awaiting: asyncio.Task[object] | None = None  # the asyncio task of the code that waits
        self.activities: set[asyncio.Task[None]] = set()  # replies and speeches that were begun for it
        self.entry: asyncio.Task[None] | None = None  # while its on_enter runs
        self.leaving: asyncio.Task[None] | None = None
        self.items: list[ChatItem] = []  # all that was said and done in it
        self._work = 0
        self._changed = changed

    @property
    def busy(self) -> bool:
        """Whether a function or `on_end_of_turn` of this task runs, and does not wait for an inline task."""
        return self._work > 0

    @property
    def going(self) -> bool:
        """Whether it may still begin something."""
        return self.state in ("entering", "active")

    @contextmanager
    def working(self) -> Iterator[None]:
        """A function or hook of the task is at work: turns of the user wait for it."""
        self.add_work(1)
        try:
            yield
        finally:
            self.add_work(-1)

    @contextmanager
    def not_working(self) -> Iterator[None]:
        """Inside `working`: it waits for an inline task, to which the turns go."""
        self.add_work(-1)
        try:
            yield
        finally:
            self.add_work(1)

    def add_work(self, number: int) -> None:
        """So much more, or less, is at work."""
        self._work += number
        self._changed()
