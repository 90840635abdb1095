"""The hook functions around one turn of the user: each event's run once, in their order, whoever asks for them."""

from __future__ import annotations

import asyncio

from orchestrator.frame import Frame
from orchestrator.hook_runner import HookRunner
from orchestrator.hooks import Context
from orchestrator.owned import Owned
from orchestrator.task_stack import TaskStack


class AroundTurn:
    """`entering` may be cancelled, and gives whether all went well; what comes after it is owed all the same.

    `frame`: the task that was current when the turn began, in whose name the hooks run; None until there is one.
    """

    def __init__(
        self, hooks: HookRunner, stack: TaskStack, context: Context, timeout: float, cancellable: Owned, owed: Owned
    ) -> None:
        self.context = context
        self.frame: Frame | None = stack.top
        self._hooks = hooks
        self._stack = stack
        self._timeout = timeout
        self._owed = owed
        self._ending: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None
        self.entering = cancellable.start(self._enter(), f"on_enter of turn {context.turn}")

    def end(self) -> asyncio.Task[None]:
        """The turn has been processed: run `on_end_of_turn`. Safe to repeat."""
        if self._ending is None:
            self._ending = self._owed.start(self._end(), f"on_end_of_turn of turn {self.context.turn}")
        return self._ending

    def leave(self) -> asyncio.Task[None]:
        """The turn is over: run `on_exit`. Safe to repeat."""
        if self._leaving is None:
            self._leaving = self._owed.start(self._leave(self.end()), f"on_exit of turn {self.context.turn}")
        return self._leaving

    async def _enter(self) -> bool:
        if self.frame is None:
            self.frame = await self._stack.begun()
        return await self._hooks.around_turn(self.frame, "on_enter", self._timeout, self.context)

    async def _end(self) -> None:
        await asyncio.wait({self.entering})
        if self.frame is not None:
            await self._hooks.around_turn(self.frame, "on_end_of_turn", self._timeout, self.context)

    async def _leave(self, ending: asyncio.Task[None]) -> None:
        await asyncio.wait({ending})
        if self.frame is not None:
            await self._hooks.around_turn(self.frame, "on_exit", self._timeout, self.context)
