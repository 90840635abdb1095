"""Which task is the current one: entering, leaving, handing over, and inline tasks on top of those that await them.

`docs/tasks.md` has the rules. A task that is handed over to is entered before the earlier ones are left, so that a
failing `on_enter` changes nothing. Every task whose `on_enter` was begun is left exactly once, in an asyncio task that
nobody cancels. How hooks are run, and what a task has under way, the host knows.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

from orchestrator.frame import Frame
from orchestrator.inline import InlineTask
from orchestrator.owned import Owned, cancel_once, outlast
from orchestrator.task import AgentTask
from orchestrator.task_failed import ConversationOver, TaskFailed
from orchestrator.user_code import UserCode
from protocol.errors import AntiphonError

log = logging.getLogger(__name__)

RUN_ON_S = 30.0  # for the run() of an inline task that has called complete() and goes on; then it is cancelled


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

    def stranded(self, error: AntiphonError) -> None:
        """No task could be entered, and there is none that would go on."""

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
        self._entering: Frame | None = None  # by a handoff: others wait for it
        self._changed = asyncio.Event()

    @property
    def top(self) -> Frame | None:
        """The current task's frame; None before the first task and after the last."""
        return self.frames[-1] if self.frames else None

    @property
    def paused(self) -> set[Frame]:
        """Those whose code awaits an inline task; all below the current one, if it is one: the user is to speak."""
        if self.frames and self.frames[-1].awaited_by is not None:
            return set(self.frames[:-1])
        return {frame.awaited_by.frame for frame in self.frames if frame.awaited_by is not None}

    @property
    def goes_on(self) -> bool:
        """Whether there is a task, other than inline ones, that is not being left."""
        return any(frame.going for frame in self.frames if frame.awaited_by is None)

    def changed(self) -> None:
        """Something that `settled()` looks at has changed."""
        self._changed.set()

    async def _next_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def begun(self) -> Frame:
        """The top frame, once there is one."""
        while (top := self.top) is None:
            await self._next_change()
        return top

    async def settled(self) -> Frame:
        """The top frame, once it is entered and none of its functions and hooks is at work."""
        while True:
            top = self.top
            if top is not None and top.settled:
                return top
            await self._next_change()

    async def decided(self, frame: Frame) -> None:
        """Until this frame is the top one again, or is being left."""
        while frame.going and self.top is not frame:
            await self._next_change()

    # --- transitions ------------------------------------------------------------------------------------------------

    async def hand_over(self, task: AgentTask, *, asking: Frame | None = None) -> None:
        """Make this the only task. Returns when it is entered; the earlier ones are left meanwhile.

        `asking`: the frame whose code wants it. Raises `TaskFailed` when the task can't be entered, or another one
        took its place; then nothing has changed.
        """
        if isinstance(task, InlineTask):
            raise TaskFailed(f"{_name(task)} is an InlineTask: it is awaited, not handed over to")
        _check_going(asking)  # at once: the transition that is under way may wait for its on_exit
        await self._owned.shielded(self._hand_over(task, asking))

    async def _hand_over(self, task: AgentTask, asking: Frame | None) -> None:
        await self._until_left(task, asking)
        await self._until_free(asking)
        if self.ending:
            raise ConversationOver("the conversation is ending: no task can be entered any more")
        _check_going(asking)
        earlier = list(self.frames)
        frame = self._push(task)
        before, self._entering = self._entering, frame
        try:
            await self._enter(frame)
        except asyncio.CancelledError:
            if self.ending:
                raise ConversationOver(f"{_name(task)} was not entered: the conversation has ended") from None
            error = TaskFailed(f"{_name(task)} was not entered: another task took its place")
            self._check_not_stranded(error)
            raise error from None
        except TaskFailed as error:
            self._check_not_stranded(error)
            raise
        finally:
            if self._entering is frame:
                self._entering = before if before is not None and before.state == "entering" else None
            asyncio.get_running_loop().call_soon(self.changed)  # the next one comes after the leaving has begun
        for old in earlier:
            old.state = "leaving" if old.going else old.state
        self._owned.start(self._leave_all(earlier), f"leaving for {_name(task)}")

    def _check_not_stranded(self, error: TaskFailed) -> None:
        """The first task may have failed, or the one that was to take its place, while that was being entered."""
        if not (self.goes_on or self.ending):
            self._host.stranded(error)

    async def _until_free(self, asking: Frame | None) -> None:
        """Handoffs are made one after the other. One that its own `on_enter` asks for overtakes it, and all overtake a
        task whose `on_enter` awaits an inline task, which takes as long as the caller likes.
        """
        while (entering := self._entering) is not None:
            if self._is_inside(asking, entering) or entering in self.paused:
                return
            await self._next_change()

    async def _leave_all(self, frames: list[Frame]) -> None:
        for frame in reversed(frames):
            _break_off(frame)
            await asyncio.wait({self.leave(frame)})

    async def run_inline(self, task: InlineTask[Any], code: UserCode) -> None:
        """Make this the current task until it is complete. Called by the code that awaits it.

        Raises `TaskFailed` when it can't be entered. Cancelling leaves the task, cutting off what it says.
        """
        with code.deadline.standing_still():
            await self._may_push(task, code)
            frame = self._push(task, code)
            cut = True
            try:
                await self._enter(frame)
                self.changed()
                await self._until_complete(frame, task)
                cut = False
            finally:
                await outlast(self.leave(frame, cut=cut))

    async def _may_push(self, task: InlineTask[Any], code: UserCode) -> None:
        """Wait until the code's own task is the current one: of two inline tasks the second comes after the first."""
        while True:
            if self.ending:
                raise ConversationOver(f"{_name(task)} can't be awaited: the conversation is ending")
            if code.ended:
                raise RuntimeError(f"{_name(task)} can't be awaited: {code.what} has ended")
            leaves = code.kind == "on_exit"
            if not leaves and not code.frame.going:
                raise RuntimeError(f"{_name(task)} can't be awaited: {_name(code.frame.task)} is being left")
            if leaves or self.top is code.frame:
                return
            await self._next_change()

    async def _until_complete(self, frame: Frame, task: InlineTask[Any]) -> None:
        running = asyncio.create_task(self._run_beside(frame, task), name=f"{_name(task)}.run")
        try:
            await task._over.wait()
            if task._completed_by_run:  # it may go on after that
                await asyncio.wait({running}, timeout=RUN_ON_S)
        finally:
            running.cancel()
            await outlast(running)

    async def _run_beside(self, frame: Frame, task: InlineTask[Any]) -> None:
        try:
            await self._host.run_beside(frame)
        except Exception as error:  # raised by the await
            if not task._fail(error):
                log.exception("run() of %s failed after the task was complete", _name(task))

    def end_code(self, code: UserCode) -> None:
        """This code has ended: inline tasks that asyncio tasks of its own still await end with it."""
        code.ended = True
        for frame in self.frames:
            if frame.awaited_by is code and frame.awaiting is not None and frame.going:
                cancel_once(frame.awaiting)

    # --- entering and leaving ---------------------------------------------------------------------------------------

    async def start(self, task: AgentTask) -> None:
        """Enter the conversation's first task. Raises `TaskFailed`."""
        await self._hand_over(task, None)

    def _push(self, task: AgentTask, code: UserCode | None = None) -> Frame:
        frame = Frame(task, self.changed, code)
        self._host.attach(task, frame)
        frame.awaiting = asyncio.current_task() if code is not None else None
        old = self.top
        self.frames.append(frame)
        if code is not None and code.counts_as_work:
            code.frame.add_work(-1)  # it waits now: turns of the user go to the inline task
        self.changed()
        self._host.on_top(old.task if old is not None else None, task)
        return frame

    async def _enter(self, frame: Frame) -> None:
        """Raises what stood in the way, after the task was left again."""
        frame.entry = asyncio.create_task(self._host.enter(frame), name=f"entering {_name(frame.task)}")
        try:
            await frame.entry
        except BaseException:
            cancel_once(frame.entry)
            await outlast(self.leave(frame, cut=True))
            raise
        finally:
            frame.entry = None
        if frame.state == "entering":
            frame.state = "active"

    def leave(self, frame: Frame, *, cut: bool = False) -> asyncio.Task[None]:
        """Leave a task: once, whoever asks and how often."""
        if frame.leaving is None:
            frame.state = "leaving"
            frame.leaving = self._owned.start(self._leave(frame, cut), f"leaving {_name(frame.task)}")
        return frame.leaving

    async def _leave(self, frame: Frame, cut: bool) -> None:
        try:
            if frame.entry is not None:  # cancelled, and not ended yet
                await asyncio.wait({frame.entry})
            await self._host.finish(frame, cut=cut or self.ending)
            await self._leave_awaited_by(frame)
            if frame.begun:
                await self._host.exit(frame)
        finally:
            self._remove(frame)

    async def _leave_awaited_by(self, frame: Frame) -> None:
        """No inline task outlasts the one whose code awaits it: a hook around a turn may still do."""
        for inner in tuple(self.frames):
            if inner.awaited_by is not None and inner.awaited_by.frame is frame:
                _cancel_waiting(inner)
                await asyncio.wait({self.leave(inner, cut=True)})

    def _remove(self, frame: Frame) -> None:
        was_top = self.top is frame
        self.frames.remove(frame)
        frame.state = "left"
        below = self.top
        if (code := frame.awaited_by) is not None:
            if code.counts_as_work:
                code.frame.add_work(1)  # before a turn of the user can see that it is the current task again
            self._host.give_back(frame, code.frame)
        frame.task._detach(frame)
        self.changed()
        if was_top:
            self._host.on_top(frame.task, below.task if below is not None else None)

    async def _until_left(self, task: AgentTask, asking: Frame | None) -> None:
        """A task that is being left may be entered again as soon as it has."""
        frame = task._frame
        if frame is not None and frame.leaving is not None:
            if self._is_inside(asking, frame):
                raise TaskFailed(f"{_name(task)} is being left, and waits for the task that wants to hand over to it")
            await asyncio.wait({frame.leaving})

    async def end(self) -> None:
        """Leave all tasks, the current one first. Nothing can be entered any more."""
        self.ending = True
        self.changed()
        while self.frames:
            frame = self.frames[-1]
            _break_off(frame)
            await asyncio.wait({self.leave(frame, cut=True)})
        await self._owned.finish()

    def _is_inside(self, frame: Frame | None, outer: Frame) -> bool:
        while frame is not None:
            if frame is outer:
                return True
            frame = frame.awaited_by.frame if frame.awaited_by is not None else None
        return False


def _break_off(frame: Frame) -> None:
    """The task is left, whoever awaits it and whether it is entered."""
    if frame.awaiting is not None:
        _cancel_waiting(frame)
    if frame.entry is not None:
        cancel_once(frame.entry)


def _cancel_waiting(frame: Frame) -> None:
    """The code that awaits this inline task is cancelled: it will get no result."""
    if frame.awaiting is not None and not cancel_once(frame.awaiting):  # it has taken no notice of an earlier time
        assert isinstance(frame.task, InlineTask)
        frame.task._fail(TaskFailed(f"{_name(frame.task)} was left before it was complete"))
    if frame.awaited_by is not None:
        frame.awaited_by.deadline.cancel()


def _check_going(asking: Frame | None) -> None:
    if asking is not None and not asking.going:
        raise TaskFailed(f"{_name(asking.task)} is no longer the current task, and can't hand over to another one")


def _name(task: AgentTask) -> str:
    return type(task).__name__
