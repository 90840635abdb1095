"""When a turn of the user has ended: its reply is over, and nothing more is said or done in it.

A reply that calls a function may hand over to a task that greets, or wait for an inline task: what they say answers the
turn as well. Which figures a turn has, and what is told of it, `answering.py` and the session know.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from orchestrator.speech_handle import SpeechHandle
from orchestrator.user_turn import UserTurn
from protocol.ingest import Outcome

if TYPE_CHECKING:
    from orchestrator.conversation import Conversation

REST_S = 0.05  # code that goes on with what an inline task gave has said something after that, or will not


class TurnEnds:
    """Of one conversation."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._open: dict[int, tuple[UserTurn, SpeechHandle]] = {}  # whose replies are being made
        self._moved = asyncio.Event()

    def begin(self, turn: UserTurn, handle: SpeechHandle) -> None:
        """A reply is made to this turn."""
        self._open[turn.number] = (turn, handle)

    def over(self, turn: UserTurn, outcome: Outcome, handle: SpeechHandle) -> None:
        """Its reply is over."""
        if self._open.pop(turn.number, None) is not None:
            self._conversation.answering.finish(turn, outcome, handle)

    def asks(self, handle: SpeechHandle) -> None:
        """A function of this reply waits for an inline task: the turn has its answer when that has asked something."""
        turn, first = self._open.get(handle.turn, (None, handle))
        if turn is not None:
            self.over(turn, "completed", first)

    def moved(self) -> None:
        """The agent may be at rest now, the user may have begun a turn, or the conversation ends."""
        self._moved.set()

    async def answered(self, turn: int, *, silent: bool) -> None:
        """Until nothing more is said or done in this turn: the agent rests, or the user has begun another one.

        `silent`: the reply itself had no words, as one that completes an inline task: what awaited that may have some.
        """
        conversation = self._conversation
        while conversation.turn == turn and not conversation.stack.ending:
            self._moved.clear()
            if conversation.at_rest and not silent:
                return
            try:
                async with asyncio.timeout(REST_S if conversation.at_rest else None):
                    await self._moved.wait()
            except TimeoutError:
                return
