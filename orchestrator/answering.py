"""The user's turns: each goes to the task that is current then, through the hooks, and is answered by a reply.

Turns come one after the other. One that comes before the reply to the last has begun takes that reply's place: the new
reply answers both.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from orchestrator.chat import ChatContext, ChatMessage
from orchestrator.frame import Frame
from orchestrator.hook_runner import HookRunner
from orchestrator.hooks import LastResponse
from orchestrator.owned import Owned
from orchestrator.speech_handle import SpeechHandle
from orchestrator.task_failed import TaskFailed
from orchestrator.user_turn import UserTurn
from protocol.ingest import Outcome

if TYPE_CHECKING:
    from orchestrator.conversation import Conversation


class Answering:
    """Of one conversation. `run()` it in a task; `begin` and `commit` may be called before."""

    def __init__(self, conversation: Conversation, hooks: HookRunner) -> None:
        self._conversation = conversation
        self._hooks = hooks
        self._waiting: deque[UserTurn] = deque()
        self._came = asyncio.Event()
        self._current: dict[UserTurn, Frame] = {}  # whose hooks run, or that wait for the user to be silent
        self._begun: dict[int, tuple[asyncio.Task[bool], Frame]] = {}
        self._ended: set[int] = set()  # whose on_end_of_turn was begun
        self._owned = Owned()

    @property
    def busy(self) -> bool:
        """Whether a turn waits, or its reply has not begun."""
        return bool(self._waiting or self._current)

    def waits_for(self, frame: Frame) -> bool:
        """Whether a turn waits that this task is going to be given."""
        return bool(self._waiting) and self._conversation.stack.top is frame

    def begin(self, turn: int) -> None:
        """The user's input has started."""
        conversation = self._conversation
        top = conversation.stack.top
        self._hooks.context._begin_turn(turn, conversation.channel.now())
        if top is not None:
            entering = self._hooks.around_turn(top, "on_enter", conversation.agent.hook_timeout)
            self._begun[turn] = (self._owned.start(entering, f"on_enter of turn {turn}"), top)

    def commit(self, turn: UserTurn) -> None:
        """The turn is complete."""
        turn.asked = self._begun[turn.number][1] if turn.number in self._begun else None
        self._waiting.append(turn)
        self._came.set()
        self._conversation.state_changed()

    def drop(self, number: int) -> None:
        """The turn has ended, and nothing was said in it."""
        self._owned.start(self._leave_turn(number), f"the end of turn {number}")

    def interrupt(self) -> None:
        """Make no reply to what waits: somebody asked for silence."""
        for turn in (*self._waiting, *self._current):
            turn.unwanted = True

    async def run(self) -> None:
        """Answer turns until cancelled."""
        while True:
            while not self._waiting:
                self._came.clear()
                await self._came.wait()
            frame = await self._conversation.stack.settled()
            turn = self._waiting.popleft()
            self._current[turn] = frame
            frame.add_work(1)  # here and now: the next turn must not overtake this one
            self._owned.start(self._answer(turn, frame), f"turn {turn.number}")

    async def stop(self) -> None:
        """Cancel what is under way, and wait for it. Turns that wait are not answered."""
        self._owned.cancel()
        await self._owned.finish()

    async def _answer(self, turn: UserTurn, frame: Frame) -> None:
        outcome: Outcome = "interrupted"
        try:
            chat = await self._take_in(turn, frame)
            if chat is None:
                outcome = "no_reply"
            elif await self._still_wanted(turn, frame):
                del self._current[turn]
                self._conversation.reply(frame, turn, chat)
                return
        except TaskFailed as error:
            outcome = "failed"
            self._conversation.report(error)
        self._current.pop(turn, None)
        self._conversation.state_changed()
        await self.finish(turn, outcome, None)

    async def _take_in(self, turn: UserTurn, frame: Frame) -> ChatContext | None:
        """Run the hooks and keep the message. The context of the reply; None: there is to be no reply."""
        timeout = self._conversation.agent.hook_timeout
        message = ChatMessage("user", turn.text, created_at=turn.committed_at)
        try:
            begun = self._begun.get(turn.number)
            if begun is not None and not await asyncio.shield(begun[0]):
                raise TaskFailed(f"turn {turn.number} was not answered: an on_enter hook of the turn has failed")
            chat = frame.task._chat_ctx.copy()
            stale = self._is_stale(turn, frame)
            wanted = await self._hooks.end_of_turn(frame, chat, message, timeout)
            self._hooks.context.turn_text = message.text
            self._conversation.record(frame, message)
            if chat.get(message.id) is None:
                chat.insert(message)
        finally:
            frame.add_work(-1)
        return chat if wanted and not stale else None

    def _is_stale(self, turn: UserTurn, frame: Frame) -> bool:
        """It was said to another task, before this one asked something: it is no answer to that."""
        if turn.asked is None or turn.asked is frame:
            return False
        return any(item.kind == "message" and item.created_at > turn.committed_at for item in frame.items)

    async def _still_wanted(self, turn: UserTurn, frame: Frame) -> bool:
        """Wait until the user is silent; False when they have said more, or want nothing."""
        await self._conversation.user_silent.wait()
        return not (turn.unwanted or self.waits_for(frame)) and frame.going

    # --- the end of a turn ------------------------------------------------------------------------------------------

    async def finish(self, turn: UserTurn, outcome: Outcome, speech: SpeechHandle | None) -> None:
        """The reply has left, or there is none: send the figures, run the hooks around the turn."""
        self._conversation.channel.turn_ended(turn, outcome, speech)
        if speech is not None:
            text = speech.heard if speech.interrupted else speech.text
            ok = outcome == "completed"
            self._hooks.context.last_response = LastResponse(ok, text, speech.interrupted, speech.error)
        await self._leave_turn(turn.number)

    async def made(self, turn: UserTurn, speech: SpeechHandle) -> None:
        """All of the reply is written, and it may still be spoken."""
        self._hooks.context.last_response = LastResponse(True, speech.text)
        await self._end_turn(turn.number)

    async def _end_turn(self, number: int) -> None:
        begun = self._begun.get(number)
        if begun is None or number in self._ended:
            return
        self._ended.add(number)
        await asyncio.wait({begun[0]})
        await self._hooks.around_turn(begun[1], "on_end_of_turn", self._conversation.agent.hook_timeout)

    async def _leave_turn(self, number: int) -> None:
        await self._end_turn(number)
        begun = self._begun.pop(number, None)
        if begun is None:
            return
        self._ended.discard(number)
        self._hooks.context._end_turn(self._conversation.channel.now())
        await self._hooks.around_turn(begun[1], "on_exit", self._conversation.agent.hook_timeout)
