"""A session in writing, for a person at this terminal: its engines are started when a task needs them, and what
happens in it is told in the order in which it reads well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from antiphon.own_nodes import OwnNodes
from orchestrator.agent import VoiceAgent
from orchestrator.chat import FunctionCall, FunctionOutput, Handoff
from orchestrator.engines import Engines
from orchestrator.events import ConversationItemAdded, FunctionsCalled, SpeechCreated, TurnMetrics
from orchestrator.session import Session
from orchestrator.speech_handle import SpeechHandle
from orchestrator.streams import Pool
from orchestrator.task import AgentTask
from orchestrator.utterance import Utterance
from protocol.ingest import Closed, Error, Open, ToClient, Transcript

LEFT = "the user has left"  # why a conversation has ended, if that is so


class Watcher(Protocol):
    """Who wants to know what happens. `speaker` is the name of a task."""

    def writes(self, speaker: str, more: str) -> None:
        """The next words of what it says."""

    def said(self, speaker: str, text: str, *, interrupted: bool) -> None:
        """That was all of it. Empty if it was interrupted before a word was written."""

    def calls(self, call: FunctionCall) -> None:
        """The LLM has called a function."""

    def returned(self, output: FunctionOutput) -> None:
        """What the function gave."""

    def handed_over(self, old: str | None, new: str) -> None:
        """Another task is the current one. `old` None: it is the first."""

    def failed(self, error: Error) -> None:
        """Something went wrong; if nothing is `closed`, the conversation goes on."""

    def turn_ended(self, turn: TurnMetrics) -> None:
        """The user's turn was answered, or was not."""

    def closed(self, reason: str) -> None:
        """The conversation is over."""


class TextSession(Session):
    """`changed` is called with everything that happens, for whoever waits for the agent to come to rest."""

    def __init__(
        self,
        opening: Open,
        agent: VoiceAgent,
        pool: Pool,
        nodes: OwnNodes,
        watcher: Watcher,
        changed: Callable[[], None],
        epoch: str,
    ) -> None:
        super().__init__(opening, agent, pool, self._hear, epoch, "chat", text_only=True)
        self._nodes = nodes
        self._changed = changed
        self._story = _Story(agent, watcher)

    async def prepare(self, engines: Engines, task: AgentTask) -> None:
        for spec in self.only_text(engines).used:
            await self._nodes.ensure(spec)
        await super().prepare(engines, task)

    def open_utterance(self, turn: int) -> Utterance:
        utterance = super().open_utterance(turn)
        self._story.begin_speech()
        return utterance

    def end_utterance(self, utterance: Utterance, *, heard: str, interrupted: bool) -> None:
        super().end_utterance(utterance, heard=heard, interrupted=interrupted)
        self._story.end_speech(heard, interrupted=interrupted)

    def _hear(self, message: ToClient) -> None:
        self._story.hear(message)
        self._changed()


class _Story:
    """Puts what happens into order: a function's call after what was said before it, a handoff where it is noticed."""

    def __init__(self, agent: VoiceAgent, watcher: Watcher) -> None:
        self._agent = agent
        self._watcher = watcher
        self._tasks: dict[str, AgentTask] = {}  # in whose name each speech is, by the speech's id
        self._current: AgentTask | None = None  # as far as the reader knows
        self._speaker: str | None = None  # who speaks just now
        self._written = ""
        self._called: list[FunctionCall] = []  # while somebody speaks
        agent.on("speech_created", self._note_speech)
        agent.on("functions_called", self._note_calls)
        agent.on("conversation_item_added", self._note_item)
        agent.on("metrics", watcher.turn_ended)

    # --- speech -----------------------------------------------------------------------------------------------------

    def begin_speech(self) -> None:
        """The speech that is the agent's current one has its turn."""
        speech = self._agent.current_speech
        task = self._tasks.get(speech.id) if speech is not None else None
        task = task if task is not None else self._agent.current_task
        if task is self._agent.current_task:  # not the last words of one that is left
            self._change(task)
        self._speaker, self._written = name_of(task), ""

    def hear(self, message: ToClient) -> None:
        """What a client is sent."""
        match message:
            case Transcript(speaker="agent", final=False):
                more, self._written = message.text.removeprefix(self._written), message.text
                if more and self._speaker is not None:
                    self._watcher.writes(self._speaker, more)
            case Error():
                self._watcher.failed(message)
            case Closed():
                self._watcher.closed(message.reason)

    def end_speech(self, heard: str, *, interrupted: bool) -> None:
        """It was written to its end, or cut off."""
        if self._speaker is not None and (heard or interrupted):
            self._watcher.said(self._speaker, heard, interrupted=interrupted)
        self._speaker = None
        called, self._called = self._called, []
        for call in called:
            self._watcher.calls(call)

    # --- events of the agent ----------------------------------------------------------------------------------------

    def _note_speech(self, event: SpeechCreated) -> None:
        speech = event.speech
        self._tasks[speech.id] = event.task
        speech.add_done_callback(self._forget_speech)

    def _forget_speech(self, speech: SpeechHandle) -> None:
        self._tasks.pop(speech.id, None)

    def _note_calls(self, event: FunctionsCalled) -> None:
        if self._speaker is not None:  # the words before it are still to come
            self._called.extend(event.calls)
            return
        for call in event.calls:
            self._watcher.calls(call)

    def _note_item(self, event: ConversationItemAdded) -> None:
        if isinstance(event.item, FunctionOutput):
            self._watcher.returned(event.item)
        elif isinstance(event.item, Handoff):
            self._change(event.task)

    def _change(self, new: AgentTask) -> None:
        if new is not self._current:
            old, self._current = self._current, new
            self._watcher.handed_over(name_of(old) if old is not None else None, name_of(new))


def name_of(task: AgentTask) -> str:
    """As it is shown: a task that has no class of its own is simply the agent."""
    return "Agent" if type(task) is AgentTask else type(task).__name__
