"""What a conversation needs of the session that carries it: a mouth, ears, engines, and somebody to tell."""

from __future__ import annotations

from typing import Protocol

from orchestrator.engines import Engines
from orchestrator.stages import Stages
from orchestrator.task import AgentTask
from orchestrator.user_turn import UserTurn
from orchestrator.utterance import Utterance
from protocol.errors import AntiphonError
from protocol.ingest import AgentState, Outcome


class Channel(Protocol):
    """Implemented by `Session`. All methods are called on the event loop; none blocks."""

    id: str
    user_id: str
    text_only: bool

    def now(self) -> float:
        """Monotonic seconds."""

    def open_utterance(self, turn: int) -> Utterance:
        """The next thing that is said; it gets a generation of its own."""

    def end_utterance(self, utterance: Utterance, *, heard: str, interrupted: bool) -> None:
        """It is over. Interrupted: the client is told to drop what it has of it."""

    def stages(self, utterance: Utterance, engines: Engines, instructions: str) -> Stages:
        """The engines that make it."""

    def only_text(self, engines: Engines) -> Engines:
        """The engines that are used here: in a session without sound, only the llm."""

    async def prepare(self, engines: Engines, task: AgentTask) -> None:
        """Check that nodes serve these engines of this task and accept their options.

        Raises `ConfigurationError` and `Unavailable` kinds.
        """

    def listen(self) -> None:
        """Another task is the current one: hear with its engines."""

    def agent_is(self, state: AgentState, *, interruptible: bool) -> None:
        """What the agent is doing now."""

    def turn_ended(self, turn: UserTurn, outcome: Outcome) -> None:
        """The reply to this turn has left, or there is none."""

    def report(self, error: AntiphonError) -> None:
        """Tell the client."""

    def end(self, error: AntiphonError) -> None:
        """The conversation can't go on."""
