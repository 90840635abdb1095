"""Which task is the current one: entering, leaving, handing over, and inline tasks on top of those that await them.

`docs/tasks.md` has the rules. A task that is handed over to is entered before the earlier ones are left, so that a
failing `on_enter` changes nothing. Every task whose `on_enter` was begun is left exactly once, in an asyncio task that
nobody cancels. How hooks are run, and what a task has under way, the host knows.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from orchestrator.frame import Frame
from orchestrator.inline import InlineTask
from orchestrator.owned import Owned, outlast
from orchestrator.task import AgentTask
from orchestrator.task_failed import ConversationOver, TaskFailed
from orchestrator.user_code import UserCode

log = logging.getLogger(__name__)


class Host(Protocol):
    """What the stack needs of the conversation."""

    async def enter(self, frame: Frame) -> None:
        """Check its engines, then run its `on_enter` hooks. Raises `TaskFailed`."""

    async def finish(self, frame: Frame, *, cut: bool) -> None:
        """Wait until nothing that was begun for this task goes on; with `cut`, end its speech."""

    async def exit(self, frame: Frame) -> None:
        """Run its `on_exit` hooks. Raises nothing."""

    async def run_beside(self, frame: Frame) -> None:
        """Run an inline task's `run()`. Raises what it raises."""

    def give_back(self, frame: Frame, to: Frame) -> None:
        """What was said in an inline task becomes a part of the task that awaited it."""

    def on_top(self, old: AgentTask | None, new: AgentTask | None) -> None:
        """Another task is the current one."""

    def attach(self, task: AgentTask, frame: Frame) -> None:
        """The task gets its agent. Raises RuntimeError when it runs already."""


class TaskStack:
    """The frames of one conversation. `frames[-1]` is the current task's."""

    def __init__(self, host: Host) -> None:
        self.frames: list[Frame] = []
        self.ending = False
        self._host = host
        self._owned = Owned()
        self._transition = asyncio.Lock()
        self._entering: Frame | None = None  # the frame for which `_transition` is held
        self._changed = asyncio.Event()

    @property
    def top(self) -> Frame | None:
        """The current task's frame; None before the first task and after the last."""
        return self.frames[-1] if self.frames else None

    def changed(self) -> None:
        """Something that `settled()` looks at has changed."""
        self._changed.set()

    async def settled(self) -> Frame:
        """The top frame, once it is entered and none of its functions and hooks is at work."""
        while True:
            top = self.top
            if top is not None and top.state == "active" and not top.busy:
                return top
            self._changed.clear()
            await self._changed.wait()

    # --- transitions ------------------------------------------------------------------------------------------------

    async def hand_over(self, task: AgentTask, *, asking: Frame | None = None) -> None:
        """Make this the only task. Returns when it is entered; the earlier ones are left meanwhile.

        `asking`: the frame whose code wants it. Raises `TaskFailed` when the task can't be entered, or another one
        took its place; then nothing has changed.
        """
        if isinstance(task, InlineTask):
            raise TaskFailed(f"{_name(task)} is an InlineTask: it is awaited, not handed over to")
        if self._entering is not None and self._is_inside(asking, self._entering):
            await self._owned.shielded(self._hand_over(task, asking))  # its own on_enter asks: it will not be the last
        else:
            await self._owned.shielded(self._hand_over_in_turn(task, asking))

    async def _hand_over_in_turn(self, task: AgentTask, asking: Frame | None) -> None:
        async with self._transition:
            try:
                await self._hand_over(task, asking)
            finally:
                self._entering = None

    async def _hand_over(self, task: AgentTask, asking: Frame | None) -> None:
        if self.ending:
            raise ConversationOver("the conversation is ending: no task can be entered any more")
        if asking is not None and not asking.going:
            raise TaskFailed(f"{_name(asking.task)} is no longer the current task, and can't hand over to another one")
        await self._until_left(task)
        earlier = list(self.frames)
        frame = self._push(task)
        self._entering = frame
        try:
            await self._enter(frame)
        except asyncio.CancelledError:
            if self.ending:
                raise ConversationOver(f"{_name(task)} was not entered: the conversation has ended") from None
            raise TaskFailed(f"{_name(task)} was not entered: another task took its place") from None
        for old in earlier:
            old.state = "leaving" if old.going else old.state
        self._owned.start(self._leave_all(earlier), f"leaving for {_name(task)}")

    async def _leave_all(self, frames: list[Frame]) -> None:
        for frame in reversed(frames):
            if frame.awaiting is not None:
                _cancel_waiting(frame)
            if frame.entry is not None:
                frame.entry.cancel()
            await self.leave(frame)

    async def run_inline(self, task: InlineTask[Any], code: UserCode) -> None:
        """Make this the current task until it is complete. Called by the code that awaits it.

        Raises `TaskFailed` when it can't be entered. Cancelling leaves the task, cutting off what it says.
        """
        with code.deadline.standing_still(), self._parked(code):
            await self._may_push(task, code)
            frame = self._push(task, code)
            cut = True
            try:
                await self._enter(frame)
                await self._until_complete(frame, task)
                cut = False
            finally:
                await outlast(self.leave(frame, cut=cut))

    @staticmethod
    def _parked(code: UserCode) -> AbstractContextManager[None]:
        return code.frame.not_working() if code.counts_as_work else nullcontext()

    async def _may_push(self, task: InlineTask[Any], code: UserCode) -> None:
        """Wait until the code's own task is the current one: of two inline tasks the second comes after the first."""
        while True:
            if self.ending:
                raise ConversationOver(f"{_name(task)} can't be awaited: the conversation is ending")
            leaves = code.kind == "on_exit"
            if not leaves and not code.frame.going:
                raise RuntimeError(f"{_name(task)} can't be awaited: {_name(code.frame.task)} is being left")
            if leaves or self.top is code.frame:
                return
            self._changed.clear()
            await self._changed.wait()

    async def _until_complete(self, frame: Frame, task: InlineTask[Any]) -> None:
        running = asyncio.create_task(self._run_beside(frame, task), name=f"{_name(task)}.run")
        try:
            await task._over.wait()
        except asyncio.CancelledError:
            running.cancel()
            raise
        finally:
            await outlast(running)

    async def _run_beside(self, frame: Frame, task: InlineTask[Any]) -> None:
        try:
            await self._host.run_beside(frame)
        except Exception as error:  # noqa: BLE001  # raised by the await
            task._fail(error)

    def end_code(self, code: UserCode) -> None:
        """This code has ended: inline tasks that asyncio tasks of its own still await end with it."""
        code.ended = True
        for frame in self.frames:
            if frame.awaited_by is code and frame.awaiting is not None and frame.going:
                frame.awaiting.cancel()

    # --- entering and leaving ---------------------------------------------------------------------------------------

    async def start(self, task: AgentTask) -> None:
        """Enter the conversation's first task. Raises `TaskFailed`."""
        await self._hand_over_in_turn(task, None)

    def _push(self, task: AgentTask, code: UserCode | None = None) -> Frame:
        frame = Frame(task, self.changed, code)
        self._host.attach(task, frame)
        frame.awaiting = asyncio.current_task() if code is not None else None
        old = self.top
        self.frames.append(frame)
        self.changed()
        self._host.on_top(old.task if old is not None else None, task)
        return frame

    async def _enter(self, frame: Frame) -> None:
        """Raises what stood in the way, after the task was left again."""
        frame.entry = asyncio.create_task(self._host.enter(frame), name=f"entering {_name(frame.task)}")
        try:
            await frame.entry
        except BaseException:
            frame.entry.cancel()
            await outlast(self.leave(frame, cut=True))
            raise
        finally:
            frame.entry = None
        if frame.state == "entering":
            frame.state = "active"
        self.changed()

    def leave(self, frame: Frame, *, cut: bool = False) -> asyncio.Task[None]:
        """Leave a task: once, whoever asks and how often."""
        if frame.leaving is None:
            frame.state = "leaving"
            frame.leaving = self._owned.start(self._leave(frame, cut), f"leaving {_name(frame.task)}")
        return frame.leaving

    async def _leave(self, frame: Frame, cut: bool) -> None:
        try:
            await self._host.finish(frame, cut=cut or self.ending)
            if frame.begun:
                await self._host.exit(frame)
        finally:
            self._remove(frame)

    def _remove(self, frame: Frame) -> None:
        was_top = self.top is frame
        self.frames.remove(frame)
        frame.state = "left"
        below = self.top
        if frame.awaited_by is not None:
            self._host.give_back(frame, frame.awaited_by.frame)
        frame.task._detach(frame)
        self.changed()
        if was_top:
            self._host.on_top(frame.task, below.task if below is not None else None)

    async def _until_left(self, task: AgentTask) -> None:
        """A task that is being left may be entered again as soon as it has."""
        frame = task._frame
        if frame is not None and frame.leaving is not None:
            await asyncio.wait({frame.leaving})

    async def end(self) -> None:
        """Leave all tasks, the current one first. Nothing can be entered any more."""
        self.ending = True
        self.changed()
        while self.frames:
            frame = self.frames[-1]
            if frame.awaiting is not None:
                _cancel_waiting(frame)
            if frame.entry is not None:
                frame.entry.cancel()
            await asyncio.wait({self.leave(frame, cut=True)})
        await self._owned.finish()

    def _is_inside(self, frame: Frame | None, outer: Frame) -> bool:
        while frame is not None:
            if frame is outer:
                return True
            frame = frame.awaited_by.frame if frame.awaited_by is not None else None
        return False


def _cancel_waiting(frame: Frame) -> None:
    """The code that awaits this inline task is cancelled: it will get no result."""
    if frame.awaiting is not None and not frame.awaiting.done():
        frame.awaiting.cancel()
    if frame.awaited_by is not None:
        frame.awaited_by.deadline.cancel()


def _name(task: AgentTask) -> str:
    return type(task).__name__
