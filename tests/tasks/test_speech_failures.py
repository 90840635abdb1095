"""What becomes of speech when a node, the text or the conversation is lost, and when it may not be asked for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from orchestrator import AudioFrame, SpeechHandle, VoiceAgent, ai_function
from orchestrator.testing import Call, calls, fails, pause, step, virtual_time
from protocol.errors import NodeLost
from tests.tasks.shop import Shop
from tests.tasks.test_node_failures import told
from tests.tasks.test_pipeline_nodes import Iterable, tone
from tests.tasks.test_speech_handles import speaking


@pytest.mark.parametrize("service", ["llm", "tts"])
@virtual_time
async def test_a_node_that_is_lost_fails_the_speech_that_it_worked_on_and_no_other(service: Any) -> None:
    async with Call(VoiceAgent(task=Shop()), step("One moment, please. ", pause(60)), "I am back.") as call:
        await call.settled()
        speech, following = call.agent.generate_reply(), call.agent.say("Next.")
        await speaking(call)
        await asyncio.sleep(0.5)
        call.nodes.lose(service)
        await speech
        assert isinstance(speech.error, NodeLost)
        assert (await following).error is None
        assert following.heard == "Next."
        await call.write("Still there?")
        assert told(call) == [str(speech.error)]
        texts = [message.text for message in call.agent.chat_ctx.messages]
        assert texts == ["One moment,", "Next.", "Still there?", "I am back."]


@virtual_time
async def test_an_llm_that_fails_fails_the_reply_with_its_own_words() -> None:
    async with Call(VoiceAgent(task=Shop()), fails("the model is overloaded"), "I am back.") as call:
        await call.settled()
        speech = await call.agent.generate_reply()
        assert (str(speech.error), speech.interrupted, speech.heard) == ("the model is overloaded", False, "")
        call.expect.error("engine", "the model is overloaded").nothing_more()
        assert (await call.agent.generate_reply()).heard == "I am back."


@virtual_time
async def test_an_iterable_that_raises_fails_what_is_said() -> None:
    async def broken() -> AsyncIterator[str]:
        yield "One moment, please. And "
        raise OSError("the file is gone")

    async with Call(VoiceAgent(task=Shop())) as call:
        await call.settled()
        speech = await call.agent.say(broken())
        assert str(speech.error) == "the reply failed: OSError: the file is gone"


def refused(agent: VoiceAgent) -> None:
    with pytest.raises(RuntimeError, match="the agent is in no conversation"):
        agent.say("Hello.")
    with pytest.raises(RuntimeError, match="the agent is in no conversation"):
        agent.generate_reply()


@virtual_time
async def test_the_agent_can_not_speak_before_the_conversation_and_after_it() -> None:
    agent = VoiceAgent(task=Shop())
    refused(agent)
    agent.interrupt()  # there is nothing to interrupt, and that is no error
    async with Call(agent) as call:
        await call.settled()
        await agent.say("Hello.")
    refused(agent)
    agent.interrupt()
    assert agent.current_speech is None


@virtual_time
async def test_what_is_said_when_the_caller_has_gone_is_over_at_once_and_unheard() -> None:
    said: list[SpeechHandle] = []

    class Leaving(Shop):
        async def on_exit(self) -> None:
            said.append(await self.agent.say("Bye."))

    async with Call(VoiceAgent(task=Leaving())) as call:
        await call.settled()
    assert [(speech.heard, speech.interrupted) for speech in said] == [("", True)]


@virtual_time
async def test_the_agent_can_not_be_used_from_another_thread() -> None:
    class Threaded(Shop):
        @ai_function
        def greet(self) -> str:
            """Greet, from a function that is not async."""
            assert threading.current_thread() is not threading.main_thread()
            for use in (lambda: self.agent.say("Hello."), self.agent.generate_reply, self.agent.interrupt):
                with pytest.raises(RuntimeError, match=r"can't be used from another thread.*async def"):
                    use()
            return "refused"

    async with Call(VoiceAgent(task=Threaded()), calls("greet"), "So be it.") as call:
        await call.write("Hi")
        call.expect.user().function_call().function_output("refused").message("So be it.").nothing_more()


@pytest.mark.parametrize("silent", ["", "  ", "\n"])
@virtual_time
async def test_nothing_to_say_is_over_at_once_and_kept_nowhere(silent: str) -> None:
    async with Call(VoiceAgent(task=Shop())) as call:
        await call.settled()
        speech = await call.agent.say(silent)
        assert (speech.heard, speech.text, speech.interrupted, speech.error) == ("", "", False, None)
        await call.settled()
        call.expect.nothing_more()


@virtual_time
async def test_what_say_is_given_is_closed_when_it_is_cut_off() -> None:
    closed: list[str] = []

    async def endless() -> AsyncIterator[str]:
        try:
            while True:
                yield "one two three. "
                await asyncio.sleep(0.1)
        finally:
            closed.append("text")

    async def hum() -> AsyncIterator[AudioFrame]:
        try:
            while True:
                yield tone(20)
        finally:
            closed.append("audio")

    async with Call(VoiceAgent(task=Shop(tts=None))) as call:
        await call.settled()
        slow = call.agent.say(endless())
        humming = call.agent.say("Hm.", audio=hum())
        await asyncio.sleep(1)
        await slow.interrupt()
        assert closed == ["text"]
        await speaking(call)
        await humming.interrupt()
        assert closed == ["text", "audio"]


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"text": 3}, "the text of say() gave int; it must give str, or an async iterable of it"),
        ({"text": Iterable(3)}, "the text of say() yielded int; it must yield str"),
        ({"text": "Hm.", "audio": b"x"}, "the audio of say() gave bytes; it must give AudioFrame, or an async"),
    ],
)
@virtual_time
async def test_what_say_can_not_say_is_told_by_name(said: dict[str, Any], problem: str) -> None:
    async with Call(VoiceAgent(task=Shop())) as call:
        await call.settled()
        speech = await call.agent.say(**said)
        assert problem in str(speech.error)
