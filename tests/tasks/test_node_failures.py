"""Nodes of a reply that raise, that give what they must not, and that are cut off."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from orchestrator import AgentTask, AudioFrame, ChatChunk, ChatContext, FunctionCall, FunctionContext, VoiceAgent
from orchestrator.testing import Call, calls, fails, pause, says, step, virtual_time
from protocol.errors import AntiphonError
from protocol.ingest import Error
from tests.tasks.shop import Shop
from tests.tasks.talk import barge_in, given_back
from tests.tasks.test_pipeline_nodes import Iterable, outcomes, own, quiet, returning, samples, tone, yielding

NODES = ["llm_node", "transcription_node", "tts_node"]
GOOD: dict[str, Any] = {"llm_node": "Hello. ", "transcription_node": "Hello. ", "tts_node": tone(300)}


def told(call: Call) -> list[str]:
    """The errors that the client was sent."""
    return [message.message for message in call.messages if isinstance(message, Error)]


# --- raising ----------------------------------------------------------------------------------------------------------


def raising(*values: Any) -> Callable[..., Any]:
    """A generator that fails after these, the first time; then it gives them."""
    failed: list[bool] = []

    async def node(self: Any, *_: Any) -> AsyncIterator[Any]:
        for value in values:
            yield value
        if not failed:
            failed.append(True)
            raise ValueError("the shelf is empty")

    return node


@pytest.mark.parametrize("begun", [False, True], ids=["at once", "after some output"])
@pytest.mark.parametrize("name", NODES)
@virtual_time
async def test_a_node_that_raises_fails_the_reply_and_not_the_conversation(
    name: str, begun: bool, caplog: pytest.LogCaptureFixture
) -> None:
    node = raising(GOOD[name]) if begun else raising()
    async with Call(VoiceAgent(task=own(**{name: node})), "Hello.", "Hello.") as call:
        await call.write("Hi")
        assert told(call) == ["the reply failed: ValueError: the shelf is empty"]
        assert outcomes(call) == ["failed"]
        assert "Traceback" in caplog.text
        assert call.closed is None
        await call.write("Again")
        assert len(told(call)) == 1
        assert outcomes(call)[1] != "failed"
        assert [message.text for message in call.agent.chat_ctx.messages if message.role == "user"] == ["Hi", "Again"]


@pytest.mark.parametrize("name", NODES[1:])
@virtual_time
async def test_a_node_that_raises_fails_what_say_says(name: str) -> None:
    async with Call(VoiceAgent(task=own(**{name: raising()}))) as call:
        await call.settled()
        first, second = call.agent.say("Hello."), call.agent.say("Hello again.")
        await second
        assert "the shelf is empty" in str(first.error)
        assert (first.interrupted, second.error) == (False, None)


@virtual_time
async def test_a_coroutine_that_raises_fails_the_reply() -> None:
    async def broken(self: AgentTask, *_: Any) -> str:
        raise KeyError("title")

    async with Call(VoiceAgent(task=own(llm_node=broken))) as call:
        await call.write("Hi")
        assert told(call) == ["the reply failed: KeyError: 'title'"]


@virtual_time
async def test_functions_are_not_called_when_the_llm_node_fails_after_asking_for_them() -> None:
    async def failing(self: AgentTask, chat: ChatContext, functions: FunctionContext) -> AsyncIterator[ChatChunk]:
        async for chunk in self.default.llm_node(chat, functions):
            yield chunk
        raise ValueError("the shelf is empty")

    async with Call(VoiceAgent(task=own(llm_node=failing)), calls("find_book", title="Emma")) as call:
        await call.write("Emma?")
        call.expect.user().error().nothing_more()


@virtual_time
async def test_a_transcription_node_may_say_something_when_the_llm_fails() -> None:
    async def soothing(self: AgentTask, text: AsyncIterable[str]) -> AsyncIterator[str]:
        try:
            async for part in text:
                yield part
        except AntiphonError:
            yield "I am sorry, I lost my thread."

    async with Call(VoiceAgent(task=own(transcription_node=soothing)), fails("the model is down")) as call:
        await call.write("Hi")
        call.expect.user().message("I am sorry, I lost my thread.").nothing_more()
        assert outcomes(call) == ["completed"]


# --- nodes that do not read all ---------------------------------------------------------------------------------------


async def brief(self: AgentTask, text: AsyncIterable[str]) -> AsyncIterator[str]:
    """Has enough after the first part."""
    async for part in text:
        yield part
        return


@pytest.mark.parametrize(("node", "said"), [(brief, ["Let "]), (returning(lambda _: None), [])])
@virtual_time
async def test_functions_are_called_though_a_transcription_node_reads_no_further(
    node: Callable[..., Any], said: list[str]
) -> None:
    looked = step("Let me look.", pause(5), calls("find_book", title="Emma"))
    async with Call(VoiceAgent(task=own(transcription_node=node)), looked, "Let it be.") as call:
        await call.write("Emma?")
        call.expect.user()
        for text in said:
            call.expect.message(text.strip())
        call.expect.function_call("find_book").function_output("Emma: shelf 3")
        assert len(call.script.requests) == 2


@virtual_time
async def test_an_llm_that_fails_unread_fails_the_reply() -> None:
    broken = step("Let me look.", pause(5), fails("the model is down"))
    async with Call(VoiceAgent(task=own(transcription_node=brief)), broken) as call:
        await call.write("Emma?")
        assert (told(call), outcomes(call)) == (["the model is down"], ["failed"])


@virtual_time
async def test_an_llm_that_goes_on_unread_is_ended_by_an_interruption() -> None:
    endless = step("Let me look.", pause(3600), calls("find_book", title="Emma"))
    async with Call(VoiceAgent(task=own(transcription_node=brief)), endless) as call:
        call.send("Emma?")
        await call.until(lambda: call.transcript[-1:] == [("agent", "Let")])
        assert call.nodes.used["llm"] == 1
        call.interrupt()
        await call.settled()
        assert "llm" not in call.nodes.used
        call.expect.user().message("Let").nothing_more()
        assert outcomes(call) == ["interrupted"]


# --- giving what must not be ------------------------------------------------------------------------------------------

WRONG = [
    ("llm_node", yielding(3), "llm_node of Own yielded int; it must yield ChatChunk or str"),
    ("llm_node", returning(lambda _: 3), "llm_node of Own gave int; it must give ChatChunk or str, or an async"),
    ("llm_node", returning(lambda _: ["a"]), "llm_node of Own gave list; it must give ChatChunk or str, or an async"),
    ("transcription_node", yielding(ChatChunk("a")), "transcription_node of Own yielded ChatChunk; it must yield str"),
    ("transcription_node", returning(lambda _: b"a"), "transcription_node of Own gave bytes; it must give str"),
    ("tts_node", yielding(b"\0\0"), "tts_node of Own yielded bytes; it must yield AudioFrame"),
    ("tts_node", returning(lambda _: "Hello."), "tts_node of Own gave str; it must give AudioFrame"),
    ("tts_node", lambda self, text: Iterable("a"), "tts_node of Own yielded str; it must yield AudioFrame"),
]


@pytest.mark.parametrize(("name", "node", "problem"), WRONG)
@virtual_time
async def test_a_wrong_type_is_told_with_the_node_and_its_class(
    name: str, node: Callable[..., Any], problem: str
) -> None:
    async with Call(VoiceAgent(task=own(**{name: node})), "Hello.") as call:
        await call.write("Hi")
        call.expect.user("Hi").error("engine", re.compile(f"the reply failed: TypeError: {problem}")).nothing_more()


@virtual_time
async def test_an_llm_node_may_yield_the_same_call_again_and_one_call_id_twice() -> None:
    emma = ChatChunk(call=FunctionCall("find_book", '{"title": "Emma"}', "call_0"))
    persuasion = ChatChunk(call=FunctionCall("find_book", '{"title": "Persuasion"}', "call_0"))

    async def insisting(
        self: AgentTask, chat: ChatContext, functions: FunctionContext
    ) -> AsyncIterator[ChatChunk | str]:
        if functions:
            yield emma
            yield persuasion
            yield emma
            return
        async for chunk in self.default.llm_node(chat, functions):
            yield chunk

    async with Call(VoiceAgent(task=own(llm_node=insisting), max_fnc_steps=2), "Shelf 3.") as call:
        await call.write("Emma?")
        assert told(call) == []
        gave = given_back(call.script.requests[0])
        assert gave == ["Emma: shelf 3", "Persuasion: shelf 3", "Emma: shelf 3"] * 2
        calls_shown = [item.call.call_id for item in call.script.requests[0].chat if item.call is not None]
        answered = [item.call_id for item in call.script.requests[0].chat if item.role == "function"]
        assert calls_shown == answered


# --- cutting off ------------------------------------------------------------------------------------------------------


class Open(Shop):
    """Its nodes note when they are closed; none ends by itself before its input."""

    def __init__(self) -> None:
        super().__init__()
        self.closed: set[str] = set()

    async def llm_node(self, chat_ctx: ChatContext, fnc_ctx: FunctionContext) -> AsyncIterator[ChatChunk]:
        try:
            async for chunk in self.default.llm_node(chat_ctx, fnc_ctx):
                yield chunk
        finally:
            self.closed.add("llm_node")

    async def transcription_node(self, text: AsyncIterable[str]) -> AsyncIterator[str]:
        try:
            async for part in text:
                yield part
        finally:
            self.closed.add("transcription_node")

    async def tts_node(self, text: AsyncIterable[str]) -> AsyncIterator[AudioFrame]:
        try:
            async for frame in self.default.tts_node(text):
                yield frame
        finally:
            self.closed.add("tts_node")


ENDS: dict[str, Callable[[Call], Awaitable[object]]] = {
    "the caller cuts in": lambda call: barge_in(call, "wait"),
    "the caller hangs up": lambda call: call.hang_up(),
    "the client is lost": lambda call: call.lose_client(),
    "the client asks for silence": lambda call: _now(call.interrupt),
    "the agent is interrupted": lambda call: _now(call.agent.interrupt),
    "the speech is interrupted": lambda call: _now(call.agent.current_speech.interrupt),  # type: ignore[union-attr]
}


async def _now(act: Callable[[], object]) -> None:
    act()


@pytest.mark.parametrize("end", ENDS)
@virtual_time
async def test_an_interruption_closes_every_node(end: str) -> None:
    task = Open()
    endless = step("I have a lot to say, and it is all about books. ", pause(3600), says("Bye."))
    async with Call(VoiceAgent(task=task), endless, "Yes?") as call:
        call.send("Tell me")
        await call.until(lambda: call.state == "speaking")
        speech = call.agent.current_speech
        assert speech is not None
        assert task.closed == set()
        await ENDS[end](call)
        await speech
        assert speech.interrupted
        assert task.closed == set(NODES)
        await call.until(lambda: outcomes(call))
        assert outcomes(call)[0] == "interrupted"


@virtual_time
async def test_of_a_voice_of_ones_own_the_heard_text_is_in_proportion() -> None:
    text = "one two three four five six seven eight nine ten"
    async with Call(VoiceAgent(task=own(tts_node=quiet))) as call:
        await call.settled()
        speech = call.agent.say(text)
        await asyncio.sleep(0.5)
        speech.interrupt()
        await speech
        heard = speech.heard.split()
        assert heard == text.split()[: len(heard)]
        assert 4 <= len(heard) <= 6
        call.expect.message(speech.heard, interrupted=True).nothing_more()


@virtual_time
async def test_a_voice_of_ones_own_that_does_not_read_its_text_speaks_for_all_of_it() -> None:
    jingle = yielding(tone(500), tone(500))
    called = step("Let me look.", calls("find_book", title="Emma"))
    async with Call(VoiceAgent(task=own(tts_node=jingle)), called, "Shelf 3.") as call:
        await call.write("Emma?")
        call.expect.user().message("Let me look.").function_call().function_output().message("Shelf 3.").nothing_more()
        assert len(samples(call)) == 2 * 16_000
