"""What a VoiceAgent tells those who listen: the events, their payloads, and who is told."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from protocol.ingest import AgentState, StageTimes, UserState

if TYPE_CHECKING:
    from orchestrator.chat import ChatItem, FunctionCall, FunctionOutput
    from orchestrator.speech_handle import SpeechHandle
    from orchestrator.task import AgentTask
    from protocol.errors import AntiphonError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UserStateChanged:
    """`user_state_changed`: the caller began or stopped speaking."""

    old: UserState
    new: UserState


@dataclass(frozen=True, slots=True)
class AgentStateChanged:
    """`agent_state_changed`: listening, thinking or speaking."""

    old: AgentState
    new: AgentState


@dataclass(frozen=True, slots=True)
class UserInputTranscribed:
    """`user_input_transcribed`: what the caller has said in this turn so far; `final`: the turn is complete."""

    turn: int
    text: str
    final: bool


@dataclass(frozen=True, slots=True)
class ConversationItemAdded:
    """`conversation_item_added`: a message, function call, function output or handoff, of this task."""

    item: ChatItem
    task: AgentTask


@dataclass(frozen=True, slots=True)
class FunctionsCalled:
    """`functions_called`: the LLM has called these in one step, and they are about to run."""

    calls: tuple[FunctionCall, ...]
    task: AgentTask


@dataclass(frozen=True, slots=True)
class FunctionsExecuted:
    """`functions_executed`: the calls of one LLM step and what they gave, in call order."""

    calls: tuple[FunctionCall, ...]
    outputs: tuple[FunctionOutput, ...]
    task: AgentTask


@dataclass(frozen=True, slots=True)
class SpeechCreated:
    """`speech_created`: the agent is going to say something, in the name of this task."""

    speech: SpeechHandle
    task: AgentTask


@dataclass(frozen=True, slots=True)
class TaskChanged:
    """`task_changed`: another task is the current one. `old` None: it is the first."""

    old: AgentTask | None
    new: AgentTask


@dataclass(frozen=True, slots=True)
class TurnMetrics:
    """`metrics`: the figures of one turn of the user. `stages` in milliseconds, -1 for one that did not run."""

    turn: int
    outcome: str
    stages: StageTimes = field(default_factory=StageTimes)
    audio_ms: int = 0
    heard_ms: int = 0


@dataclass(frozen=True, slots=True)
class ErrorOccurred:
    """`error`: something failed, and the client was told of it."""

    error: AntiphonError


@dataclass(frozen=True, slots=True)
class Closed:
    """`close`: the conversation is over; every task has been left."""

    reason: str


EventName = Literal[
    "user_state_changed",
    "agent_state_changed",
    "user_input_transcribed",
    "conversation_item_added",
    "functions_called",
    "functions_executed",
    "speech_created",
    "task_changed",
    "metrics",
    "error",
    "close",
]
Event = (
    UserStateChanged
    | AgentStateChanged
    | UserInputTranscribed
    | ConversationItemAdded
    | FunctionsCalled
    | FunctionsExecuted
    | SpeechCreated
    | TaskChanged
    | TurnMetrics
    | ErrorOccurred
    | Closed
)
NAMES: dict[type[Event], EventName] = {
    UserStateChanged: "user_state_changed",
    AgentStateChanged: "agent_state_changed",
    UserInputTranscribed: "user_input_transcribed",
    ConversationItemAdded: "conversation_item_added",
    FunctionsCalled: "functions_called",
    FunctionsExecuted: "functions_executed",
    SpeechCreated: "speech_created",
    TaskChanged: "task_changed",
    TurnMetrics: "metrics",
    ErrorOccurred: "error",
    Closed: "close",
}

Listener = Callable[[Any], Any]


class Listeners:
    """Who listens to the events of one agent. A listener that raises is logged, and harms nobody."""

    def __init__(self) -> None:
        self._listeners: dict[EventName, list[Listener]] = {}
        self._running: set[asyncio.Task[None]] = set()

    def add(self, name: EventName, listener: Listener) -> None:
        """Call it with each such event. Raises ValueError for an event that there is not."""
        if name not in NAMES.values():
            raise ValueError(f"there is no event {name!r}; there are {', '.join(NAMES.values())}")
        if not callable(listener):
            raise TypeError(f"a listener of {name!r} must be a function of one event, not {listener!r}")
        self._listeners.setdefault(name, []).append(listener)

    def remove(self, name: EventName, listener: Listener) -> None:
        """Call it no more. Nothing happens when it was not added."""
        if listener in self._listeners.get(name, ()):
            self._listeners[name].remove(listener)

    def emit(self, event: Event) -> None:
        """Tell everybody, in the order in which they were added. An async listener runs beside the conversation."""
        name = NAMES[type(event)]
        for listener in tuple(self._listeners.get(name, ())):
            try:
                result = listener(event)
            except Exception:
                log.exception("a listener of %r failed: %s", name, _name(listener))
                continue
            if inspect.iscoroutine(result):
                task = asyncio.get_running_loop().create_task(_run(result, name, listener))
                self._running.add(task)
                task.add_done_callback(self._running.discard)

    async def finish(self, seconds: float) -> None:
        """Wait for async listeners that still run, at most so long; then cancel them."""
        if not self._running:
            return
        _, late = await asyncio.wait(set(self._running), timeout=seconds)
        for task in late:
            log.warning("%s was cancelled: it went on for %g s after the conversation", task.get_name(), seconds)
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=1.0)


async def _run(coroutine: Any, name: str, listener: Listener) -> None:
    try:
        await coroutine
    except Exception:
        log.exception("a listener of %r failed: %s", name, _name(listener))


def _name(listener: Listener) -> str:
    return getattr(listener, "__qualname__", None) or repr(listener)
