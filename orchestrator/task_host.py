"""What entering, finishing and leaving a task means in a conversation. When, the task stack decides."""

from __future__ import annotations

import asyncio
import logging
import time
from operator import attrgetter
from typing import TYPE_CHECKING

from orchestrator.chat import ChatContext
from orchestrator.events import TaskChanged
from orchestrator.frame import Frame
from orchestrator.inline import InlineTask
from orchestrator.owned import cancel_once
from orchestrator.task import AgentTask
from orchestrator.task_failed import TaskFailed
from protocol.errors import AntiphonError

if TYPE_CHECKING:
    from orchestrator.conversation import Conversation

log = logging.getLogger(__name__)

LEAVE_S = 30.0  # for the speech and functions of a task that is left; then they are cut off
LAST_S = 1.0  # for an on_exit for which there is no time left


class TaskHost:
    """Of one conversation: the host of its task stack."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation

    def attach(self, task: AgentTask, frame: Frame) -> None:
        task._attach(self._conversation.agent, frame)

    async def enter(self, frame: Frame) -> None:
        conversation = self._conversation
        name = type(frame.task).__name__
        try:
            await conversation.channel.prepare(conversation.engines_of(frame), frame.task)
        except AntiphonError as error:
            raise TaskFailed(f"{name} could not be entered: {error}") from error
        frame.begun = True
        began = time.time()
        await conversation.hooks.enter(frame, conversation.agent.hook_timeout)
        frame.entered = True
        if frame.awaited_by is not None:
            conversation.record_handoff(frame.awaited_by.frame.task, frame.task, began)

    async def run_beside(self, frame: Frame) -> None:
        assert isinstance(frame.task, InlineTask)
        await self._conversation.hooks.run_beside(frame, frame.task.run)

    async def finish(self, frame: Frame, *, cut: bool) -> None:
        if cut:
            self._cut(frame)
        if frame.activities:
            _, late = await asyncio.wait(set(frame.activities), timeout=LEAVE_S)
            if late:
                log.warning("%s is left after %g s, though it still speaks", type(frame.task).__name__, LEAVE_S)
                self._cut(frame)
                await asyncio.wait(late)

    def _cut(self, frame: Frame) -> None:
        replies = self._conversation.replies
        for task in tuple(frame.activities):
            if task in replies:
                replies[task][1]._interrupted = True
            cancel_once(task)

    async def exit(self, frame: Frame) -> None:
        conversation = self._conversation
        timeout = conversation.agent.hook_timeout
        if conversation.stack.ending:
            timeout = min(timeout, max(LAST_S, conversation.ending_until - conversation.channel.now()))
        await conversation.hooks.exit(frame, timeout)

    def stranded(self, error: AntiphonError) -> None:
        self._conversation.give_up(error)

    def give_back(self, frame: Frame, to: Frame) -> None:
        to.items.extend(frame.items)
        by_time = sorted(frame.items, key=attrgetter("created_at"))  # a speech is kept when it is over
        to.task._chat_ctx.merge(ChatContext(by_time))
        if to.going and frame.entered:
            self._conversation.record_handoff(frame.task, to.task, time.time())

    def on_top(self, old: AgentTask | None, new: AgentTask | None) -> None:
        if new is None:
            return
        conversation = self._conversation
        conversation.channel.listen()
        conversation.agent._listeners.emit(TaskChanged(old, new))
        conversation.state_changed()
