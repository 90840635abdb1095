"""What stops a task from becoming the active one."""

from __future__ import annotations

from protocol.errors import AntiphonError


class TaskFailed(AntiphonError):
    """A task could not be entered: its `on_enter` (or a hook) failed or took too long, or its engines can't be had."""

    code = "task_failed"


class ConversationOver(AntiphonError):
    """Something was asked of a conversation that ends or has ended."""

    code = "conversation_over"
