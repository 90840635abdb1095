"""A frame: one running of a task, from before its `on_enter` until after its `on_exit`. State only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

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
        self.activities: set[asyncio.Task[Any]] = set()  # replies, speeches and hooks of turns, begun for it
        self.entry: asyncio.Task[None] | None = None  # while its on_enter runs
        self.leaving: asyncio.Task[None] | None = None
        self.items: list[ChatItem] = []  # all that was said and done in it
        self._work = 0
        self._owing: set[object] = set()  # replies that have called functions, and not kept what they gave
        self._changed = changed

    @property
    def busy(self) -> bool:
        """Whether a function or `on_end_of_turn` of this task runs, and does not wait for an inline task."""
        return self._work > 0

    @property
    def settled(self) -> bool:
        """Whether it is ready for a turn of the user: entered, nothing of it at work, and all results kept."""
        return self.state == "active" and not self.busy and not self.owes_results

    @property
    def owes_results(self) -> bool:
        """Whether a reply has called functions, and has not decided yet how it goes on."""
        return bool(self._owing)

    @property
    def going(self) -> bool:
        """Whether it may still begin something."""
        return self.state in ("entering", "active")

    def results_due(self, reply: object, due: bool) -> None:
        """This reply has called functions; or it has kept what they gave, and decided how it goes on."""
        if due:
            self._owing.add(reply)
        elif reply in self._owing:
            self._owing.remove(reply)
            self._changed()

    @contextmanager
    def working(self) -> Iterator[None]:
        """A function or hook of the task is at work: turns of the user wait for it."""
        self.add_work(1)
        try:
            yield
        finally:
            self.add_work(-1)

    def add_work(self, number: int) -> None:
        """So much more, or less, is at work."""
        self._work += number
        self._changed()
