"""A reply: an LLM step, the functions that it calls, another step with what they returned; one SpeechHandle for all.

The functions of a step start when the LLM has ended, while its text is still being spoken. What they did is kept
whatever becomes of the speech.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from orchestrator.chat import ChatContext, ChatItem, ChatMessage, FunctionCall, Role
from orchestrator.events import FunctionsCalled, FunctionsExecuted
from orchestrator.frame import Frame
from orchestrator.function_calls import FunctionCalls, Result, to_output
from orchestrator.functions import FunctionContext
from orchestrator.llm_step import LlmStep
from orchestrator.speaker import Place
from orchestrator.speech_handle import SpeechHandle
from orchestrator.user_turn import UserTurn
from orchestrator.utterance import Utterance
from protocol.errors import AntiphonError
from protocol.ingest import Outcome

if TYPE_CHECKING:
    from orchestrator.conversation import Conversation

log = logging.getLogger(__name__)


class ReplyChain:
    """Run it once, in a task of its own. `place` is the one in line of its first step."""

    def __init__(
        self,
        conversation: Conversation,
        frame: Frame,
        handle: SpeechHandle,
        place: Place,
        *,
        chat: ChatContext | None = None,
        turn: UserTurn | None = None,
        instructions: str = "",
    ) -> None:
        self._conversation = conversation
        self._frame = frame
        self.handle = handle
        self._place = place
        self._chat = chat  # None: the task's own, as it is when the reply's turn to speak has come
        self._known: set[str] = set()  # items of the task's own context that `_chat` has, or was meant not to have
        self._turn = turn
        self._instructions = instructions
        self._under_way: tuple[asyncio.Task[Any], ...] = ()  # what an interruption cancels
        self._results: list[Result] = []  # that are not kept yet
        self.outcome: Outcome = "completed"

    async def run(self) -> None:
        """Until the whole of it was played or it was cut off. Raises what the engines or nodes raised."""
        self.handle._stop = self._stop
        if self._chat is not None:
            self._known = {item.id for item in self._frame.task._chat_ctx}
        rounds = self._conversation.agent.max_fnc_steps
        for number in range(rounds + 1):
            if number:
                self._place = self._conversation.speaker.line.join(self.handle)
            offered = number < rounds and self._frame.going  # the last words of `on_exit` call nothing
            functions = self._frame.task._functions if offered else FunctionContext([])
            if not await self._round(functions):
                return
        log.warning("%s: functions were called without end; the reply ends", type(self._frame.task).__name__)

    def _stop(self) -> None:
        self._place.cut()
        for task in self._under_way:
            task.cancel()

    async def _round(self, functions: FunctionContext) -> bool:
        """One step, and what its calls gave. True when the LLM is to be asked again."""
        try:
            results = await self._step(functions)
            self.outcome = "interrupted" if self.handle.interrupted else "completed"
            return bool(results) and await self._goes_on(results)
        finally:
            self._keep_rest()
            self._frame.results_due(self, False)

    # --- one step ---------------------------------------------------------------------------------------------------

    async def _step(self, functions: FunctionContext) -> list[Result]:
        """Speak what the LLM writes, run what it calls. Results in call order; none: nothing was called."""
        if self.handle.interrupted or (self._turn is not None and not self._frame.going):
            self.handle._interrupted = True
            self._place.leave()
            return []
        llm = LlmStep(self._frame.task, self._context, functions, self._conversation.channel.now)
        speech = self._conversation.speaker.say(self._place, self._frame, lambda _: llm.text(), instructions=self._told)
        speaking = asyncio.create_task(speech, name="speaking")
        ended = asyncio.create_task(llm.ended.wait())
        self._under_way = (speaking, ended)
        results: list[Result] = []
        try:
            await asyncio.wait({speaking, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not _has_failed(speaking):  # a node may have enough of the text before the LLM calls what it wants
                await asyncio.wait({ended})
            if llm.ended.is_set() and llm.error is None and llm.calls:
                results = await self._call(llm.calls, functions)
            elif self._place.utterance is not None:
                await self._until_written(speaking, self._place.utterance)
            await asyncio.wait({speaking})
        finally:
            self._under_way = ()
            for task in (speaking, ended):
                task.cancel()
            try:
                await asyncio.wait({speaking, ended})
            finally:  # it may be cancelled here, too
                self._place.leave()  # it has, unless it was cancelled before it could begin
                await llm.close()
                self._note_times(llm)
        self._check(speaking, llm)
        return results

    async def _until_written(self, speaking: asyncio.Task[Utterance], utterance: Utterance) -> None:
        """The last step: wait for the end of its text, and tell those who want to know."""
        written = asyncio.create_task(utterance.written.wait())
        try:
            await asyncio.wait({speaking, written}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            written.cancel()
        if self._turn is not None and utterance.written.is_set():
            self._conversation.reply_made(self._turn, self.handle)

    def _check(self, speaking: asyncio.Task[Utterance], llm: LlmStep) -> None:
        """Raise what the speech has failed with, or an LLM that nobody heard."""
        error = None if speaking.cancelled() else speaking.exception()
        if error is None and isinstance(llm.error, Exception) and not llm.raised:
            error = llm.error
        if error is not None:
            raise error

    async def _call(self, calls: Sequence[FunctionCall], functions: FunctionContext) -> list[Result]:
        self._frame.results_due(self, True)
        agent = self._conversation.agent
        agent._listeners.emit(FunctionsCalled(tuple(calls), self._frame.task))
        runner = FunctionCalls(
            self._frame, self.handle, timeout=agent.function_timeout, end_code=self._conversation.stack.end_code
        )
        try:
            return await runner.run(calls, functions)
        finally:
            self._results = runner.results

    def _context(self) -> ChatContext:
        """What the LLM is shown: the reply's own context, and what has been added to the task's since it began."""
        if self._chat is None:
            self._chat = ChatContext()
        asked = self._chat.items[-1] if self._chat.items else None
        added = [item for item in self._frame.task._chat_ctx if item.id not in self._known]
        for item in added:
            self._known.add(item.id)
            self._chat.insert(item)
        if asked is not None and _said(asked, "user") and added and all(_said(item, "assistant") for item in added):
            # What was still being said when the user spoke, as a greeting: it is no answer to the user.
            self._chat.items.append(self._chat.remove(asked.id))
        return self._chat.copy()

    def _told(self) -> str:
        return "\n\n".join(part for part in (self._frame.task.instructions, self._instructions) if part)

    def _note_times(self, llm: LlmStep) -> None:
        """Of the first step that has come so far."""
        times = self._turn.times if self._turn is not None else None
        if times is None or times.first_audio_at:
            return
        times.first_token_at = times.first_token_at or llm.first_token_at
        for utterance in self.handle._utterances:
            if utterance.first_audio_at:
                times.first_piece_at, times.first_audio_at = utterance.first_piece_at, utterance.first_audio_at
                break

    # --- what functions gave ----------------------------------------------------------------------------------------

    async def _goes_on(self, results: list[Result]) -> bool:
        """Keep what the calls gave, hand over if one says so; True when the LLM is to be asked again."""
        asked = time.time()
        handed_over = await self._hand_over(results, asked)
        if not handed_over:
            self._keep(asked)
        if handed_over or self.handle._silenced or not self._frame.going:
            return False
        if all(result.silent for result in results):
            return False
        if self._conversation.stack.top is not self._frame:
            self.handle._finish()  # the task that is being entered may wait for it
        if not await self._conversation.may_follow_up(self._frame, self.handle) or self.handle._silenced:
            self.outcome = "interrupted"
            return False
        if self.handle.done() or self.handle.interrupted:  # interrupted: by the caller, who then said nothing
            self._begin_anew()
        return True

    async def _hand_over(self, results: list[Result], asked: float) -> bool:
        result = next((result for result in results if result.handoff is not None), None)
        if result is None or result.handoff is None:
            return False
        conversation = self._conversation
        if result.output and self._frame.going:
            conversation.say(result.output, frame=self._frame)
        self.handle._finish()  # the new task may wait for it
        try:
            await conversation.hand_over(result.handoff, asking=self._frame, before=lambda: self._keep(asked))
        except (AntiphonError, RuntimeError) as error:  # RuntimeError: the task that was returned can't be run
            if isinstance(error, RuntimeError):
                log.error("%s can't hand over: %s", type(self._frame.task).__name__, error)
            result.fail(str(error))
            return False
        return True

    def _keep_rest(self) -> None:
        """The reply was broken off before what its functions did was kept: that is kept all the same."""
        for result in self._results:
            if result.handoff is not None:
                result.fail("not done: the reply was broken off")
        if self._results:
            self._keep(time.time())

    def _keep(self, at: float) -> None:
        """Calls and outputs as one block: LLM interfaces want the outputs right after the calls."""
        results, self._results = self._results, []
        calls = tuple(replace(result.call, created_at=at) for result in results)
        outputs = tuple(to_output(result, at) for result in results)
        self._conversation.record(self._frame, *calls, *outputs)
        self._conversation.agent._listeners.emit(FunctionsExecuted(calls, outputs, self._frame.task))

    def _begin_anew(self) -> None:
        """What is still to be said is a speech of its own: this one is over."""
        self.handle._finish()
        self.handle = self._conversation.renew_handle(self._frame)
        self.handle._stop = self._stop


def _has_failed(task: asyncio.Task[Any]) -> bool:
    """Whether it has ended, and not well."""
    return task.done() and (task.cancelled() or task.exception() is not None)


def _said(item: ChatItem, role: Role) -> bool:
    return isinstance(item, ChatMessage) and item.role == role
