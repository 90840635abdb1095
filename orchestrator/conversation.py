"""A conversation that runs: an agent's tasks, speech and turns, on the session that carries it.

It puts the others together: `task_stack.py` (which task is current), `answering.py` (the user's turns), `speaker.py`
(one mouth), `reply_chain.py` (a reply with its functions), `hook_runner.py`, `task_host.py`. It knows no socket
and no node.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestrator.answering import Answering
from orchestrator.channel import Channel
from orchestrator.chat import ChatContext, ChatItem, ChatMessage, Handoff
from orchestrator.engines import Engines, NotGiven
from orchestrator.events import Closed, ConversationItemAdded, ErrorOccurred, SpeechCreated
from orchestrator.explain import explain
from orchestrator.frame import Frame
from orchestrator.hook_runner import HookRunner
from orchestrator.hooks import Context
from orchestrator.inline import InlineTask
from orchestrator.node_output import stream
from orchestrator.owned import Owned, cancel_once
from orchestrator.reply_chain import ReplyChain
from orchestrator.speaker import Place, Speaker
from orchestrator.speech_handle import Kind, SpeechHandle
from orchestrator.task import AgentTask
from orchestrator.task_failed import TaskFailed
from orchestrator.task_host import TaskHost
from orchestrator.task_stack import TaskStack
from orchestrator.transition import Transition
from orchestrator.turn_ends import TurnEnds
from orchestrator.user_code import IN_A_THREAD, UserCode, running_code
from orchestrator.user_turn import UserTurn
from protocol.audio import AudioFrame
from protocol.errors import AntiphonError
from protocol.ingest import AgentState

if TYPE_CHECKING:
    from orchestrator.agent import VoiceAgent

log = logging.getLogger(__name__)

ENDING_S = 10.0  # for all on_exit hooks of a conversation that ends; what comes after has `LAST_S`


class Conversation:
    """`start()` it when the client can hear; `end()` it once, whatever happened."""

    def __init__(self, agent: VoiceAgent, channel: Channel) -> None:
        self.agent = agent
        self.channel = channel
        self.context = Context(agent, agent.hooks, channel.id, channel.user_id)
        self.stack = TaskStack(TaskHost(self))
        self.hooks = HookRunner(agent.hooks, self.context, self.stack.end_code)
        self.answering = Answering(self, self.hooks)
        self.speaker = Speaker(self)
        self.user_silent = asyncio.Event()
        self.user_silent.set()
        self.turn = 0  # the user's newest turn
        self._owned = Owned()
        self.replies: dict[asyncio.Task[None], tuple[Frame, SpeechHandle]] = {}  # what is said, and waits to be
        self._state_due = False
        self.turn_ends = TurnEnds(self)
        self._thread = threading.get_ident()
        self.ending_until = 0.0
        self._ended = False

    # --- its life ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Enter the first task. When that fails the channel is told to end."""
        self.agent._conversation = self
        self._owned.start(self._start(), "the first task")
        self._owned.start(self.answering.run(), "answering")

    def begin_turn(self, turn: int) -> None:
        """The user's input has started."""
        self.turn = turn
        self.turn_ends.moved()
        self.answering.begin(turn)

    async def _start(self) -> None:
        try:
            await self.stack.start(self.agent._first_task)
        except AntiphonError as error:
            log.info("conversation %s: %s", self.channel.id, error)  # `stranded()` was called, if it is the last word

    async def end(self, reason: str, *, reachable: bool) -> None:
        """Leave every task and end all that goes on. `reachable`: the client still hears what `on_exit` says."""
        self.context._shared.session_active = reachable
        self.ending_until = self.channel.now() + ENDING_S
        self.stack.ending = True
        self.turn_ends.moved()
        self.hooks.hurry()
        for task, (_, handle) in tuple(self.replies.items()):
            handle._interrupted = True
            cancel_once(task)
        await self.answering.stop()
        await self.stack.end()
        if reachable:
            await self._last_words()
        self._ended = True
        self._owned.cancel()
        await self._owned.finish()
        self.agent._listeners.emit(Closed(reason))
        await self.agent._listeners.finish(self.agent.hook_timeout)
        self.agent._conversation = None

    def give_up(self, error: AntiphonError) -> None:
        """There is no task that would go on."""
        self._owned.start(self._give_up(error), "giving up")

    async def _give_up(self, error: AntiphonError) -> None:
        await self._last_words()  # of the last on_exit
        if self.stack.goes_on:  # somebody has found another task meanwhile
            self.report(error)
        else:
            self.channel.end(error)

    async def _last_words(self) -> None:
        try:
            async with asyncio.timeout(self.agent.hook_timeout):
                await self.speaker.line.empty()
        except TimeoutError:
            log.info("conversation %s: the last words were cut off", self.channel.id)

    # --- what code may ask of it ------------------------------------------------------------------------------------

    def say(
        self,
        text: str | AsyncIterable[str],
        *,
        audio: AsyncIterable[AudioFrame] | None = None,
        allow_interruptions: bool | NotGiven = NotGiven.NOT_GIVEN,
        add_to_chat_ctx: bool = True,
        frame: Frame | None = None,
    ) -> SpeechHandle:
        """See `VoiceAgent.say`."""
        self.check_thread()
        frame = frame or self._frame()
        handle = self.new_handle("say", frame, allow_interruptions)
        if not self._can_speak(handle):
            return handle
        place = self.speaker.line.join(handle)
        written = stream(text, (str,), "the text of say()")
        speaking = partial(self.speaker.say, place, frame, lambda _: written, audio=audio, remember=add_to_chat_ctx)
        task = self._run(frame, handle, speaking, place)

        def stop() -> None:
            place.cut()
            task.cancel()

        handle._stop = stop
        return handle

    def generate_reply(
        self, *, user_input: str | None, instructions: str, allow_interruptions: bool | NotGiven
    ) -> SpeechHandle:
        """See `VoiceAgent.generate_reply`."""
        self.check_thread()
        frame = self._frame()
        handle = self.new_handle("reply", frame, allow_interruptions)
        if not self._can_speak(handle):
            return handle
        if user_input is not None:
            self.record(frame, ChatMessage("user", user_input))
        place = self.speaker.line.join(handle)
        chain = ReplyChain(self, frame, handle, place, instructions=instructions)
        self._run(frame, handle, chain.run, place)
        return handle

    def reply(self, frame: Frame, turn: UserTurn, chat: ChatContext) -> None:
        """Answer a turn of the user."""
        handle = self.new_handle("reply", frame)
        handle.turn = turn.number
        self.turn_ends.begin(turn, handle)
        place = self.speaker.line.join(handle)
        chain = ReplyChain(self, frame, handle, place, chat=chat, turn=turn)
        self._run(frame, handle, partial(self._answer, chain, turn), place)

    def reply_made(self, turn: UserTurn, handle: SpeechHandle) -> None:
        """All of the reply to this turn is written."""
        self.answering.made(turn, handle)

    async def hand_over(
        self, task: AgentTask, *, asking: Frame | None, before: Callable[[], None] | None = None
    ) -> None:
        """Make this the only task. `before` is called when it is entered, before that is recorded."""
        old = self.agent.current_task
        asked = time.time()
        await self.stack.hand_over(task, asking=asking)
        if before is not None:
            before()
        self.record_handoff(old, task, asked)

    def update_task(self, task: AgentTask, code: UserCode | None) -> Awaitable[None]:
        """See `VoiceAgent.update_task`."""
        self.check_thread()
        doing = self._owned.start(self._update_task(task, code.frame if code is not None else None), "update_task")
        return Transition(doing)

    async def _update_task(self, task: AgentTask, asking: Frame | None) -> AntiphonError | RuntimeError | None:
        try:
            await self.hand_over(task, asking=asking)
        except AntiphonError as error:
            if self.stack.goes_on or self.stack.ending:
                self.report(error)
            return error
        except RuntimeError as error:  # the task runs already: a mistake of who wants it
            self.report(TaskFailed(str(error)))
            return error
        return None

    async def run_inline(self, task: InlineTask[Any], code: UserCode) -> None:
        """Make this the current task until it is complete."""
        if code.handle is not None:
            self.turn_ends.asks(code.handle)
        try:
            await self.stack.run_inline(task, code)
        finally:
            if code.handle is not None:
                code.handle.turn = self.turn  # what it still says follows what was said meanwhile

    def interrupt(self, *, force: bool, silence: bool) -> None:
        """Cut off what is said and waits to be. `silence`: and make no reply to what waits for one."""
        self.check_thread()
        if silence:
            self.answering.interrupt()
            top = self.stack.top
            for frame, handle in tuple(self.replies.values()):
                if frame is top and (force or handle.allow_interruptions):
                    handle.interrupt(force=True)
        for handle in self.speaker.line.handles:
            if silence and (force or handle.allow_interruptions):
                handle.interrupt(force=True)
            elif force or handle.allow_interruptions:
                handle._cut()

    @property
    def current_speech(self) -> SpeechHandle | None:
        """What is being said."""
        place = self.speaker.line.current
        return place.handle if place is not None else None

    @property
    def at_rest(self) -> bool:
        """Whether the current task is entered, nothing is said, and nothing is under way."""
        top = self.stack.top
        paused = self.stack.paused
        replies = any(frame not in paused for frame, _ in self.replies.values())
        busy = replies or self.working or self.speaker.line.current is not None or self._state_due
        return top is not None and top.state == "active" and not busy

    @property
    def working(self) -> bool:
        """Whether a function or hook is at work, or a turn waits for its reply; what awaits an inline task is not."""
        paused = self.stack.paused
        return self.answering.busy or any(frame.busy for frame in self.stack.frames if frame not in paused)

    def check_thread(self) -> None:
        """Raise RuntimeError in another thread: a function that is not async runs in one."""
        if threading.get_ident() != self._thread:
            raise RuntimeError(IN_A_THREAD)

    # --- for those who make speech ----------------------------------------------------------------------------------

    def new_handle(
        self, kind: Kind, frame: Frame, allow_interruptions: bool | NotGiven = NotGiven.NOT_GIVEN
    ) -> SpeechHandle:
        """A speech of this task. The first that was said counts: the speech's own, the task's, the agent's."""
        given = (allow_interruptions, frame.task.allow_interruptions, self.agent.allow_interruptions)
        allow = next(one for one in given if not isinstance(one, NotGiven))
        handle = SpeechHandle(kind, allow_interruptions=allow, turn=self.turn)
        self.agent._listeners.emit(SpeechCreated(handle, frame.task))
        return handle

    def renew_handle(self, frame: Frame) -> SpeechHandle:
        """For what the reply that calls this has still to say, after its first speech is over."""
        reply = asyncio.current_task()
        assert reply in self.replies
        handle = self.new_handle("reply", frame)
        self.replies[reply] = (frame, handle)
        return handle

    async def may_follow_up(self, frame: Frame, handle: SpeechHandle) -> bool:
        """Wait until the user is silent, and the task is current or left; False when a turn is answered anyway.

        For a reply that may not be interrupted nobody is waited for: the turn of who speaks waits for its end.
        """
        silent = self.user_silent
        while frame.going and not ((silent.is_set() or not handle.allow_interruptions) and self.stack.top is frame):
            if handle.allow_interruptions:
                await silent.wait()
            await self.stack.decided(frame)
        return frame.going and not self.answering.waits_for(frame)

    def engines_of(self, frame: Frame) -> Engines:
        """The engines that serve this task."""
        return self.channel.only_text(self.agent.engines(frame.task))

    def record(self, frame: Frame, *items: ChatItem) -> None:
        """Keep these in the chat contexts of the task and the agent, by their times."""
        for item in items:
            frame.items.append(item)
            frame.task._chat_ctx.insert(item)
            self.agent._chat_ctx.insert(item)
            self.agent._listeners.emit(ConversationItemAdded(item, frame.task))

    def report(self, error: AntiphonError) -> None:
        """Tell the client and whoever listens."""
        self.channel.report(error)
        self.agent._listeners.emit(ErrorOccurred(error))

    def record_handoff(self, old: AgentTask | None, new: AgentTask, at: float) -> None:
        """Another task has become the current one; `at`: seconds since the epoch."""
        item = Handoff(type(old).__name__ if old is not None else None, type(new).__name__, created_at=at)
        self.agent._chat_ctx.insert(item)
        self.agent._listeners.emit(ConversationItemAdded(item, new))

    def _frame(self) -> Frame:
        """The task in whose name code speaks: its own, else the current one."""
        code = running_code.get()
        if code is not None and code.frame.state != "left":
            return code.frame
        top = self.stack.top
        if top is None:
            raise RuntimeError("the agent has no task: it speaks from the first on_enter until the last on_exit")
        return top

    def _can_speak(self, handle: SpeechHandle) -> bool:
        if self.context.session_active and not self._ended:
            return True
        handle._interrupted = True
        handle._finish()
        return False

    def _run(
        self, frame: Frame, handle: SpeechHandle, speak: Callable[[], Coroutine[Any, Any, object]], place: Place
    ) -> asyncio.Task[None]:
        task = self._owned.start(self._speech(speak), f"{handle.kind} of {type(frame.task).__name__}")
        frame.activities.add(task)
        self.replies[task] = (frame, handle)
        task.add_done_callback(self._speech_over)
        task.add_done_callback(lambda _: place.leave())  # of one that was cancelled before it could begin
        return task

    def _speech_over(self, task: asyncio.Task[None]) -> None:
        frame, handle = self.replies.pop(task)
        frame.activities.discard(task)
        if frame.state == "left":
            frame.task._detach(frame)
        if task.cancelled():
            handle._interrupted = True
        handle._finish()
        self.state_changed()

    async def _speech(self, speak: Callable[[], Coroutine[Any, Any, object]]) -> None:
        running_code.set(None)  # what a speech runs is no part of the code that asked for it
        try:
            await speak()
        except Exception as error:  # noqa: BLE001  # told to the client, and logged
            reply = asyncio.current_task()
            assert reply is not None
            self.replies[reply][1].error = told = explain(error, "the reply failed")
            self.report(told)

    async def _answer(self, chain: ReplyChain, turn: UserTurn) -> None:
        try:
            await chain.run()
        except asyncio.CancelledError:
            chain.outcome = "interrupted"
            raise
        except Exception:
            chain.outcome = "failed"
            raise
        finally:
            self.turn_ends.over(turn, chain.outcome, chain.handle)

    # --- what the agent is doing ------------------------------------------------------------------------------------

    def state_changed(self) -> None:
        """Tell the channel, in a moment, what the agent is doing now: many changes make one."""
        if not self._state_due and not self._ended:
            self._state_due = True
            asyncio.get_running_loop().call_soon(self._tell_state)

    def _tell_state(self) -> None:
        self._state_due = False
        self.turn_ends.moved()
        self.stack.changed()
        place = self.speaker.line.current
        self.channel.agent_is(self._state(place), interruptible=self._interruptible(place))

    def _interruptible(self, place: Place | None) -> bool:
        """Whether speech may cut off what the agent does; between two steps of a reply that is asked of the reply."""
        if place is not None:
            return place.handle.allow_interruptions
        top = self.stack.top
        return all(handle.allow_interruptions for frame, handle in self.replies.values() if frame is top)

    def _state(self, place: Place | None) -> AgentState:
        if place is not None and place.utterance is not None and place.utterance.first_audio_at:
            return "speaking"
        top = self.stack.top
        between_steps = top is not None and top.owes_results
        return "thinking" if place is not None or self.working or between_steps else "listening"
