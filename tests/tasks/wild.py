"""A conversation in which anything may happen at any moment, drawn from a list of numbers; and what must always hold.

Zero is the harmless choice, and all choices are zero when the numbers are used up: so every history comes to rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

from orchestrator import (
    AgentTask,
    AIError,
    CallContext,
    ChatContext,
    ChatMessage,
    Context,
    FunctionOutput,
    InlineTask,
    StopResponse,
    VoiceAgent,
    ai_function,
)
from orchestrator.events import SpeechCreated, UserInputTranscribed
from orchestrator.testing import Call, SimulatedNodes, calls, calls_raw, fails, pause, says, step
from orchestrator.testing.script import Script, Step
from protocol.errors import AntiphonError
from protocol.ingest import Error, Metrics

HOOK_S, FUNCTION_S = 1.0, 3.0  # time limits
SLOW_S = 0.7


class Broken(Exception):
    """What a user's code raises that fails."""


class World:
    """One history: what was drawn, and all that happened in it."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = deque(numbers)
        self.drawn: list[str] = []  # for people who read a failure
        self.tasks: list[Wild] = []
        self.call_ids: list[str] = []
        self.texts: list[str] = []  # all that was to be said
        self.handles: list[Any] = []
        self.waits: list[asyncio.Task[None]] = []  # for what `update_task` gave
        self.committed: dict[int, str] = {}  # turns: what was said
        self.around = Counter[int]()  # turns: hooks around them that have begun, less those that have ended
        self.agent = VoiceAgent(task=self.task(), hook_timeout=HOOK_S, function_timeout=FUNCTION_S)
        self.agent.on("speech_created", self._note_speech)
        self.agent.on("user_input_transcribed", self._note_turn)
        self.script = Script(otherwise=self._answer)
        self.nodes = SimulatedNodes(self.script)
        self.nodes.stt.transcripts.extend(f"I say {number}" for number in range(100))
        self.nodes.llm.first_token_s = float(self.draw("0", "0.4"))
        self.nodes.tts.first_audio_s = float(self.draw("0", "0.3"))
        self.agent.hooks.add(on_end_of_turn=self._hook, on_exit=self._hook)
        self.agent.hooks.add(on_enter=self._turn_begins, on_exit=self._turn_ends, scope="turn")

    def draw(self, *choices: str) -> str:
        """One of these: the first unless there are numbers left."""
        chosen = choices[self._numbers.popleft() % len(choices)] if self._numbers else choices[0]
        self.drawn.append(chosen)
        self.check()
        return chosen

    def text(self) -> str:
        """Something to say that nobody has said."""
        self.texts.append(f"This is sentence {len(self.texts)} of all. It has {len(self.texts)} friends and they talk.")
        return self.texts[-1]

    def task(self) -> Wild:
        """A new one, or one that there was."""
        if self.tasks and self.draw("new", "new", "known") == "known":
            return self.tasks[len(self.drawn) % len(self.tasks)]
        return WildTask(self)

    def update(self) -> asyncio.Task[None]:
        """Change the task, as code anywhere may."""
        waiting = asyncio.ensure_future(self._wait(self.agent.update_task(self.task())))
        self.waits.append(waiting)
        return waiting

    async def _wait(self, change: Any) -> None:
        try:
            await change
        except (AntiphonError, RuntimeError) as error:
            self.drawn.append(f"<{error}>")

    async def _hook(self, _: Context) -> None:
        await self.tasks[0].do("nothing", "nothing", "nothing", "nothing", "slow", "say", "ask", "fail")

    async def _turn_begins(self, context: Context) -> None:
        self.around[context.turn] += 1
        await self._hook(context)

    async def _turn_ends(self, context: Context) -> None:
        self.around[context.turn] -= 1
        await self._hook(context)

    def _answer(self, _: Any, functions: Sequence[Any]) -> Step:
        """What the LLM does."""
        names = [function.name for function in functions]
        kind = self.draw("text", "call", "call", "text and call", "two calls", "bad call", "fails", "slow")
        text, slow = says(self.text()), says(self.text(), after=SLOW_S, every=0.1)
        if kind == "fails":
            return step(text, fails("the model is down"))
        if kind in ("text", "slow") or not names:
            return step(text if kind != "slow" else slow)
        called = [calls(self.draw(*names)) for _ in range(2 if kind == "two calls" else 1)]
        if kind == "bad call":
            called.append(calls_raw(names[0], '{"no": '))
        return step(slow, pause(0.1), *called) if kind == "text and call" else step(*called)

    def _note_speech(self, event: SpeechCreated) -> None:
        self.handles.append(event.speech)

    def _note_turn(self, event: UserInputTranscribed) -> None:
        if event.final:
            assert event.turn not in self.committed
            self.committed[event.turn] = event.text

    # --- what must hold -------------------------------------------------------------------------------------------

    def check(self) -> None:
        """At any moment."""
        for task in self.tasks:
            assert task.exits <= task.enters <= task.exits + 1, f"{task} was entered {task.enters} times"
            assert task.exited <= task.exits <= task.exited + 1, f"{task}: on_exit runs twice"
        assert len(set(self.call_ids)) == len(self.call_ids), "a call ran twice"

    def check_current(self, call: Call) -> None:
        """While the conversation goes on."""
        if call._session._conversation.stack.top is None:
            return  # the first task has failed
        running = [frame.task for frame in call._session._conversation.stack.frames]
        assert len(set(running)) == len(running), f"a task runs twice: {running}"
        current = call.agent.current_task
        assert isinstance(current, Wild)
        assert current._frame is not None, f"{current} is current and does not run"
        left = current.exited == current.enters and current._frame.entered and current._frame.state != "leaving"
        assert not left, f"{current} is current and was left"

    def check_end(self, call: Call, *, rested: bool) -> None:
        """When all is over. `rested`: the agent had come to rest before."""
        self.check()
        for task in self.tasks:
            assert task.enters == task.exits, f"{task}: {task.enters} times entered, {task.exits} times left"
            assert task._frame is None
        assert all(handle.done() for handle in self.handles), "a speech never ended"
        assert all(wait.done() for wait in self.waits), "an update_task never ended"
        ended = Counter(message.turn for message in call.messages if isinstance(message, Metrics))
        assert all(number == 1 for number in ended.values()), f"turns ended twice: {ended}"
        assert self.committed.keys() <= ended.keys(), f"turns never ended: {self.committed.keys() - ended.keys()}"
        kept = Counter(message.text for message in call.agent.chat_ctx.messages if message.role == "user")
        assert all(number == 1 for number in kept.values()), f"turns kept twice: {kept}"
        if rested:
            failed = {one.turn for one in call.messages if isinstance(one, Metrics) and one.outcome == "failed"}
            lost = [text for turn, text in self.committed.items() if text not in kept and turn not in failed]
            assert not lost, f"turns lost: {lost}"
        assert all(number == 0 for number in self.around.values()), f"hooks around turns: {self.around}"
        answered = Counter(item.call_id for item in call.agent.chat_ctx.items if isinstance(item, FunctionOutput))
        assert all(number == 1 for number in answered.values()), f"calls answered twice: {answered}"
        for context in (call.agent.chat_ctx, *(task._chat_ctx for task in self.tasks)):
            for message in context.messages:
                said = any(text.startswith(message.text) for text in self.texts)
                assert message.role == "user" or said, f"never said: {message}"
        for error in (message for message in call.messages if isinstance(message, Error)):
            assert "the reply failed" not in error.message, error.message


class Wild(AgentTask):
    """Whatever it is asked, it does what the world draws."""

    def __init__(self, world: World) -> None:
        super().__init__(instructions=f"You are task {len(world.tasks)}.")
        self.world = world
        self.name = f"task {len(world.tasks)}"
        self.enters = self.exits = self.exited = 0
        world.tasks.append(self)

    def __repr__(self) -> str:
        return self.name

    async def on_enter(self) -> None:
        self.enters += 1
        assert self.agent is self.world.agent
        if self is self.world.tasks[0]:  # if it is not entered, nothing more happens
            await self.do("nothing", "nothing", "nothing", "say", "slow", "ask", "change", "patient", "fail")
        else:
            await self.do("nothing", "nothing", "say", "reply", "slow", "fail", "hang", "ask", "change", "patient")

    async def on_end_of_turn(self, chat_ctx: ChatContext, new_message: ChatMessage) -> None:
        await self.do("nothing", "say", "slow", "fail", "hang", "ask", "change", "no reply", "patient")

    async def on_exit(self) -> None:
        self.exits += 1
        try:
            await self.do("nothing", "say", "reply", "slow", "fail", "hang", "ask", "change", "patient")
        finally:
            self.exited += 1

    async def do(self, *choices: str) -> Any:
        """One of these."""
        return await self.act(self.world.draw(*choices))

    async def act(self, kind: str) -> Any:
        """The same in a hook and in a function."""
        agent = self.world.agent
        match kind:
            case "say":
                await agent.say(self.world.text())
            case "reply":
                await agent.generate_reply(instructions="Speak.")
            case "slow":
                await asyncio.sleep(SLOW_S)
            case "fail":
                raise Broken
            case "hang":
                await asyncio.Event().wait()
            case "ask":
                return await WildInline(self.world)
            case "patient":
                return await asyncio.wait_for(WildInline(self.world), 2.0)
            case "change":
                await self.world.update()
            case "no reply":
                raise StopResponse
            case "refuse":
                raise AIError("no")
        return "done"

    @ai_function
    async def work(self, context: CallContext) -> Any:
        """Do something."""
        self.world.call_ids.append(context.function_call.call_id)
        kind = self.world.draw(
            "as hooks do", "ask", "refuse", "silent", "stubborn", "spawn", "itself", "wait for itself"
        )
        match kind:
            case "as hooks do":
                return await self.do("nothing", "say", "slow", "fail", "hang", "ask", "change", "patient")
            case "silent":
                return None
            case "stubborn":
                return await self._stubborn()
            case "spawn":
                self.world.waits.append(asyncio.create_task(self._quietly()))
                await asyncio.sleep(0.1)
            case "itself":
                return self
            case "wait for itself":
                await context.speech_handle
        return await self.act(kind)

    async def _quietly(self) -> None:
        """In an asyncio task of its own, which may outlive the function."""
        with contextlib.suppress(Exception):
            await WildInline(self.world)

    async def _stubborn(self) -> str:
        """It takes a moment to end when it is cancelled."""
        try:
            return await WildInline(self.world)
        finally:
            await asyncio.sleep(0.3)

    @ai_function
    async def move(self, context: CallContext) -> Any:
        """Hand over."""
        self.world.call_ids.append(context.function_call.call_id)
        await self.do("nothing", "slow", "say")
        if self.world.draw("alone", "with a message") == "alone":
            return self.world.task()
        return self.world.task(), self.world.text()


class WildTask(Wild):
    """One that nobody waits for."""


class WildInline(Wild, InlineTask[str]):
    """One that is complete when the world says so."""

    async def on_enter(self) -> None:
        await super().on_enter()
        if self.world.draw("stay", "stay", "complete") == "complete":
            self.finish()

    async def run(self) -> None:
        match self.world.draw("complete", "nothing", "nothing", "fail", "complete and go on", "for ever"):
            case "complete":
                await asyncio.sleep(SLOW_S)
                self.finish()
            case "fail":
                await asyncio.sleep(SLOW_S)
                raise Broken
            case "complete and go on":
                self.finish()
                await self.do("slow", "say", "hang", "fail", "ask")
            case "for ever":
                await asyncio.Event().wait()

    def finish(self) -> None:
        """Complete it, if it is not."""
        result = "the result" if self.world.draw("well", "badly") == "well" else AIError("they refuse")
        try:
            self.complete(result)
        except RuntimeError as error:
            assert "complete already" in str(error) or "not running" in str(error)  # noqa: PT017

    @ai_function
    async def answer(self, context: CallContext) -> Any:
        """Complete it."""
        self.world.call_ids.append(context.function_call.call_id)
        self.finish()
        return await self.do("nothing", "slow", "say", "fail", "hang", "ask", "change")


class Complaints(logging.Handler):
    """What the orchestrator logs that no user's code has caused."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        expected = (Broken, AIError, StopResponse, AntiphonError, TimeoutError, RuntimeError, type(None))
        if record.name == "orchestrator.session" or not isinstance(error, expected):
            self.found.append(f"{record.getMessage()}: {error!r}")
