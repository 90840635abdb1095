"""The user's turns: each goes to the task that is current then, through the hooks, and is answered by a reply.

Turns come one after the other. One that comes before the reply to the last has begun takes that reply's place: the new
reply answers both.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from orchestrator.around_turn import AroundTurn
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
        self._around: dict[int, AroundTurn] = {}  # of turns that are not over, by their numbers
        self._owned = Owned()
        self._ends = Owned()  # of turns: nobody cancels them

    @property
    def busy(self) -> bool:
        """Whether a turn waits, or its reply has not begun."""
        paused = self._conversation.stack.paused
        return bool(self._waiting) or any(frame not in paused for frame in self._current.values())

    def waits_for(self, frame: Frame) -> bool:
        """Whether a turn waits that this task is going to be given."""
        return bool(self._waiting) and self._conversation.stack.top is frame

    def begin(self, turn: int) -> None:
        """The user's input has started."""
        conversation = self._conversation
        context = self._hooks.context._begin_turn(turn, conversation.channel.now())
        self._around[turn] = AroundTurn(
            self._hooks, conversation.stack, context, conversation.agent.hook_timeout, self._owned, self._ends
        )

    def commit(self, turn: UserTurn) -> None:
        """The turn is complete."""
        turn.asked = self._around[turn.number].frame
        self._waiting.append(turn)
        self._came.set()
        self._conversation.state_changed()

    def drop(self, number: int) -> None:
        """The turn has ended, and nothing was said in it."""
        self._leave(number)

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
            if not self._waiting:
                continue  # stopped meanwhile: no task is given a turn any more
            turn = self._waiting.popleft()
            self._current[turn] = frame
            frame.add_work(1)  # here and now: the next turn must not overtake this one
            self._owned.start(self._answer(turn, frame), f"turn {turn.number}")

    async def stop(self) -> None:
        """Cancel what is under way, and wait for it. Turns that wait are not answered; all that have begun are left."""
        waiting = tuple(self._waiting)
        self._waiting.clear()
        self._owned.cancel()
        await self._owned.finish()
        for turn in (*self._current, *waiting):
            self._conversation.channel.turn_ended(turn, "interrupted")
        self._current.clear()
        for number in tuple(self._around):
            self._leave(number)
        await self._ends.finish()

    async def _answer(self, turn: UserTurn, frame: Frame) -> None:
        outcome: Outcome = "interrupted"
        try:
            message = ChatMessage("user", turn.text, created_at=max(turn.committed_at, _last_output_at(frame)))
            hooks = self._owned.start(self._take_in(turn, frame, message), f"hooks of turn {turn.number}")
            frame.activities.add(hooks)
            await asyncio.wait({hooks})
            frame.activities.discard(hooks)
            chat = None if hooks.cancelled() else hooks.result()
            if hooks.cancelled():
                if self._conversation.agent._chat_ctx.get(message.id) is None:  # they had not even begun
                    self._conversation.record(frame, message)
            elif chat is None:
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
        self.finish(turn, outcome, None)

    async def _take_in(self, turn: UserTurn, frame: Frame, message: ChatMessage) -> ChatContext | None:
        """Run the hooks and keep the message. The context of the reply; None: there is to be no reply."""
        timeout = self._conversation.agent.hook_timeout
        try:
            around = self._around[turn.number]
            if not self._waits_for(around.frame, frame) and not await asyncio.shield(around.entering):
                raise TaskFailed(f"turn {turn.number} was not answered: an on_enter hook of the turn has failed")
            chat = frame.task._chat_ctx.copy()
            stale = self._is_stale(turn, frame)
            wanted = await self._hooks.end_of_turn(frame, chat, message, timeout, around.context)
            around.context._note_text(message.text)
            self._conversation.record(frame, message)
            if chat.get(message.id) is None:
                chat.insert(message)
        except (asyncio.CancelledError, TaskFailed):
            self._conversation.record(frame, message)  # it was said, whatever becomes of it
            raise
        finally:
            frame.add_work(-1)
        return chat if wanted and not stale else None

    def _waits_for(self, begun_in: Frame | None, frame: Frame) -> bool:
        """Whether the hook around the turn may wait for what this task does: for an inline task, or for its end."""
        return begun_in is not frame and begun_in in self._conversation.stack.paused

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

    def finish(self, turn: UserTurn, outcome: Outcome, speech: SpeechHandle | None) -> None:
        """The reply has left, or there is none: send the figures, run the hooks around the turn."""
        self._ends.start(self._finish(turn, outcome, speech), f"the end of turn {turn.number}")

    async def _finish(self, turn: UserTurn, outcome: Outcome, speech: SpeechHandle | None) -> None:
        if outcome == "completed":
            await self._conversation.turn_ends.answered(turn.number, silent=speech is not None and not speech.text)
        self._conversation.channel.turn_ended(turn, outcome)
        around = self._around.get(turn.number)
        if speech is not None and around is not None:
            text = speech.heard if speech.interrupted else speech.text
            ok = outcome == "completed"
            around.context._note_response(LastResponse(ok, text, speech.interrupted, speech.error))
        self._leave(turn.number)

    def made(self, turn: UserTurn, speech: SpeechHandle) -> None:
        """All of the reply is written, and it may still be spoken."""
        around = self._around.get(turn.number)
        if around is not None:
            around.context._note_response(LastResponse(True, speech.text))
            around.end()

    def _leave(self, number: int) -> None:
        around = self._around.pop(number, None)
        if around is not None:
            around.context._end_turn(self._conversation.channel.now())
            around.leave()


def _last_output_at(frame: Frame) -> float:
    """When the newest result of a function was kept, for which the turn has waited: the LLM must not take the turn for
    what was said before that. 0.0: there is none.
    """
    return max((item.created_at for item in frame.items if item.kind == "function_output"), default=0.0)
