"""Runs hooks: in their order, each within its time, and says what became of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from orchestrator.chat import ChatContext, ChatMessage
from orchestrator.deadline import Deadline
from orchestrator.frame import Frame
from orchestrator.functions import StopResponse
from orchestrator.hooks import Context, Hook, HookName, Hooks
from orchestrator.task_failed import TaskFailed
from orchestrator.user_code import CodeKind, UserCode, running_code

log = logging.getLogger(__name__)


class HookFailed(Exception):
    """A hook raised or took too long; its text is a sentence, its cause what the hook raised."""


class HookRunner:
    """The hooks of one conversation."""

    def __init__(self, hooks: Hooks, context: Context, end_code: Callable[[UserCode], None]) -> None:
        self.context = context
        self._hooks = hooks
        self._end_code = end_code
        self._running: set[UserCode] = set()
        self._hurrying = False

    async def enter(self, frame: Frame, timeout: float) -> None:
        """Function hooks, then `on_enter` of the task. Raises `TaskFailed` at the first that fails."""
        task = frame.task
        name = type(task).__name__
        try:
            for hook in self._hooks.of("task", "on_enter"):
                await self._run(frame, "on_enter", _named(hook, name), timeout, hook, self.context)
            await self._run(frame, "on_enter", f"on_enter of {name}", timeout, task.on_enter)
        except HookFailed as error:
            log.error("%s; the task is not entered", error, exc_info=error.__cause__)
            raise TaskFailed(f"{name} could not be entered: {error}") from error.__cause__

    async def end_of_turn(
        self, frame: Frame, chat: ChatContext, message: ChatMessage, timeout: float, context: Context
    ) -> bool:
        """Function hooks, then `on_end_of_turn` of the task. False: one wants no reply. What fails is logged."""
        task = frame.task
        name = type(task).__name__
        replies = True
        for hook in self._hooks.of("task", "on_end_of_turn"):
            replies &= await self._judge(frame, _named(hook, name), timeout, hook, context)
        own = f"on_end_of_turn of {name}"
        return await self._judge(frame, own, timeout, task.on_end_of_turn, chat, message) and replies

    async def exit(self, frame: Frame, timeout: float) -> None:
        """`on_exit` of the task, then function hooks. What fails is logged."""
        task = frame.task
        name = type(task).__name__
        await self._logged(frame, "on_exit", f"on_exit of {name}", timeout, task.on_exit)
        for hook in self._hooks.of("task", "on_exit"):
            await self._logged(frame, "on_exit", _named(hook, name), timeout, hook, self.context)

    async def around_turn(self, frame: Frame, event: HookName, timeout: float, context: Context) -> bool:
        """The hooks of `scope="turn"`. False: one failed, which is logged."""
        well = True
        for hook in self._hooks.of("turn", event):
            what = f"{event} hook {_name(hook)}, around a turn"
            well &= await self._logged(frame, event, what, timeout, hook, context, around_turn=True)
            if not well and event == "on_enter":
                break
        return well

    def hurry(self) -> None:
        """The conversation ends: no time limit stands still any more."""
        self._hurrying = True
        for code in self._running:
            code.deadline.stand_still_no_more()

    async def run_beside(self, frame: Frame, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """An inline task's `run()`: without a time limit."""
        code = UserCode("run", f"run() of {type(frame.task).__name__}", frame, Deadline(None, "run"))
        await self._bounded(code, run())

    async def _judge(self, frame: Frame, what: str, timeout: float, hook: Any, *arguments: Any) -> bool:
        try:
            await self._run(frame, "on_end_of_turn", what, timeout, hook, *arguments)
        except HookFailed as error:
            if isinstance(error.__cause__, StopResponse):
                return False
            log.error("%s; the turn goes on", error, exc_info=error.__cause__)
        return True

    async def _logged(
        self,
        frame: Frame,
        kind: CodeKind,
        what: str,
        timeout: float,
        hook: Any,
        *arguments: Any,
        around_turn: bool = False,
    ) -> bool:
        try:
            await self._run(frame, kind, what, timeout, hook, *arguments, around_turn=around_turn)
        except HookFailed as error:
            log.error("%s", error, exc_info=error.__cause__)
            return False
        return True

    async def _run(
        self,
        frame: Frame,
        kind: CodeKind,
        what: str,
        timeout: float,
        hook: Callable[..., Awaitable[None]],
        *arguments: Any,
        around_turn: bool = False,
    ) -> None:
        deadline = Deadline(timeout, what)
        if self._hurrying:
            deadline.stand_still_no_more()
        code = UserCode(kind, what, frame, deadline, around_turn=around_turn)
        try:
            await self._bounded(code, _call(hook, *arguments))
        except asyncio.CancelledError:
            if kind == "on_enter" or not deadline.cancelled:
                raise
            raise HookFailed(f"{what} was cancelled: the inline task that it awaited was left") from None
        except TimeoutError as error:
            if not deadline.expired:  # its own
                raise HookFailed(f"{what} raised TimeoutError") from error
            raise HookFailed(f"{what} took longer than {timeout:g} s") from None
        except Exception as error:
            raise HookFailed(f"{what} raised {type(error).__name__}: {error}") from error

    async def _bounded(self, code: UserCode, coroutine: Coroutine[Any, Any, None]) -> None:
        self._running.add(code)
        token = running_code.set(code)
        try:
            await code.deadline.run(coroutine)
        finally:
            running_code.reset(token)
            self._running.discard(code)
            self._end_code(code)


async def _call(hook: Callable[..., Awaitable[None]], *arguments: Any) -> None:
    await hook(*arguments)


def _name(hook: Hook) -> str:
    return getattr(hook, "__qualname__", None) or repr(hook)


def _named(hook: Hook, task: str) -> str:
    return f"hook {_name(hook)} for {task}"
