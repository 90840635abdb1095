"""A user's code while it runs: what it is, for which task, how long it may take, and whether it may await a task.

Each hook, function and `run()` is started in a context of its own in which `running_code` names it; asyncio tasks that
it starts inherit that.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from orchestrator.deadline import Deadline

if TYPE_CHECKING:
    from orchestrator.frame import Frame
    from orchestrator.speech_handle import SpeechHandle

IN_A_THREAD = (
    "the agent can't be used from another thread, and an @ai_function that is not async runs in one: "
    "write it as `async def`"
)

CodeKind = Literal["on_enter", "on_end_of_turn", "on_exit", "function", "sync function", "run"]


@dataclass(eq=False)
class UserCode:
    """One call of a user's code. `what` names it in messages: "the function book of Booking"."""

    kind: CodeKind
    what: str
    frame: Frame
    deadline: Deadline
    handle: SpeechHandle | None = None  # the speech that called the function
    ended: bool = False
    around_turn: bool = False  # a hook of scope="turn", which runs beside the task

    @property
    def counts_as_work(self) -> bool:
        """Whether turns of the user wait for it."""
        return self.kind in ("function", "sync function", "on_end_of_turn") and not self.around_turn


# What runs in this context; None: code that the conversation has not started.
running_code: ContextVar[UserCode | None] = ContextVar("antiphon_user_code", default=None)
