"""What is said: say, generate_reply and their handles; the queue; what was heard of what was cut off."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from orchestrator import AudioFrame, SpeechHandle, VoiceAgent
from orchestrator.testing import Call, calls, hangs, step, virtual_time
from protocol.ingest import Audio, Clear
from tests.tasks.shop import Shop
from tests.tasks.talk import barge_in
from tests.tasks.test_pipeline_nodes import outcomes, samples, tone

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"  # some 5 s


def now() -> float:
    return asyncio.get_running_loop().time()


async def speaking(call: Call) -> SpeechHandle:
    """Wait until sound has left; what is being said."""
    await call.until(lambda: call.state == "speaking")
    speech = call.agent.current_speech
    assert speech is not None
    return speech


# --- say --------------------------------------------------------------------------------------------------------------


@virtual_time
async def test_say_says_it_word_for_word_and_keeps_it() -> None:
    async with Call(VoiceAgent(task=Shop()), "Hello.") as call:
        await call.settled()
        speech = call.agent.say("Good morning, Ann.")
        assert (speech.done(), speech.heard, speech.kind) == (False, "", "say")
        assert await speech is speech
        assert (speech.done(), speech.heard, speech.text) == (True, "Good morning, Ann.", "Good morning, Ann.")
        assert (speech.interrupted, speech.error) == (False, None)
        call.expect.message("Good morning, Ann.", interrupted=False).nothing_more()
        await call.write("Hi")
        assert call.script.requests[0].chat[1].text == "Good morning, Ann."


@virtual_time
async def test_awaiting_a_speech_takes_as_long_as_it_is_played() -> None:
    async with Call(VoiceAgent(task=Shop())) as call:
        await call.settled()
        began = now()
        await call.agent.say("x" * 100)  # 60 ms for each character
        assert now() - began == pytest.approx(6, abs=0.1)


@virtual_time
async def test_say_streams_what_an_async_iterable_gives() -> None:
    async def slowly() -> AsyncIterator[str]:
        yield "One moment, please. And "
        await asyncio.sleep(60)
        yield "here it is."

    async with Call(VoiceAgent(task=Shop())) as call:
        await call.settled()
        speech = call.agent.say(slowly())
        await call.until(lambda: call.state == "speaking", 1)
        await speech
        call.expect.message("One moment, please. And here it is.").nothing_more()


async def recorded() -> AsyncIterator[AudioFrame]:
    for _ in range(50):
        yield tone(20, level=700)


@virtual_time
async def test_say_plays_recorded_audio_of_the_text() -> None:
    async with Call(VoiceAgent(task=Shop())) as call:
        await call.settled()
        began = now()
        await call.agent.say("Welcome to the shop.", audio=recorded())
        assert now() - began == pytest.approx(1, abs=0.1)
        assert set(samples(call)) == {700}
        assert call.nodes.opened("tts") == 0
        call.expect.message("Welcome to the shop.").nothing_more()
        assert call.transcript == [("agent", "Welcome to the shop.")]


@virtual_time
async def test_of_recorded_audio_that_is_cut_off_the_heard_text_is_in_proportion() -> None:
    async with Call(VoiceAgent(task=Shop())) as call:
        await call.settled()
        speech = call.agent.say("one two three four five six seven eight", audio=recorded())
        await asyncio.sleep(0.5)
        speech.interrupt()
        await speech
        call.expect.message(re.compile("^one two three( four( five)?)?$"), interrupted=True).nothing_more()


@virtual_time
async def test_in_a_conversation_without_sound_what_is_said_is_written() -> None:
    async with Call(VoiceAgent(task=Shop()), text_only=True) as call:
        await call.settled()
        await call.agent.say("Welcome.", audio=recorded())
        await call.agent.say("Good morning.")
        call.expect.message("Welcome.").message("Good morning.").nothing_more()
        assert len(samples(call)) == 0


@virtual_time
async def test_what_is_said_without_add_to_chat_ctx_is_heard_and_not_kept() -> None:
    task = Shop()
    async with Call(VoiceAgent(task=task)) as call:
        await call.settled()
        speech = await call.agent.say("One moment.", add_to_chat_ctx=False)
        assert speech.heard == "One moment."
        assert call.transcript == [("agent", "One moment.")]
        assert (len(task.chat_ctx), len(call.agent.chat_ctx)) == (0, 0)


# --- generate_reply ---------------------------------------------------------------------------------------------------


@virtual_time
async def test_generate_reply_asks_the_llm_with_instructions_for_this_reply_alone() -> None:
    async with Call(VoiceAgent(task=Shop()), "Good morning.", "Yes.") as call:
        await call.settled()
        speech = await call.agent.generate_reply(instructions="Greet the caller.")
        assert (speech.kind, speech.heard) == ("reply", "Good morning.")
        await call.write("Hi")
        told = [one.instructions for one in call.script.requests]
        assert told == ["You sell books.\n\nGreet the caller.", "You sell books."]
        call.expect.message("Good morning.").user("Hi").message("Yes.").nothing_more()


@virtual_time
async def test_generate_reply_answers_a_user_input_that_is_given() -> None:
    async with Call(VoiceAgent(task=Shop()), "From nine.") as call:
        await call.settled()
        await call.agent.generate_reply(user_input="When do you open?")
        call.expect.user("When do you open?").message("From nine.").nothing_more()
        assert call.script.requests[0].chat[-1].text == "When do you open?"


@virtual_time
async def test_a_reply_with_functions_is_one_speech_until_the_last_word() -> None:
    looked = step("Let me look.", calls("find_book", title="Emma"))
    async with Call(VoiceAgent(task=Shop()), looked, "Shelf 3.") as call:
        await call.settled()
        speech = await call.agent.generate_reply(user_input="Emma?")
        assert (speech.text, speech.heard) == ("Let me look. Shelf 3.", "Let me look. Shelf 3.")
        call.expect.user().message("Let me look.").function_call().function_output().message("Shelf 3.").nothing_more()


# --- the queue --------------------------------------------------------------------------------------------------------


@virtual_time
async def test_one_speech_plays_at_a_time_in_the_order_in_which_they_were_asked_for() -> None:
    over: list[str] = []

    def note(name: str) -> Callable[[SpeechHandle], None]:
        return lambda _: over.append(name)

    async with Call(VoiceAgent(task=Shop()), "Second.") as call:
        await call.settled()
        first = call.agent.say("First.")
        second = call.agent.generate_reply()
        third = call.agent.say("Third.")
        for name, speech in (("third", third), ("second", second), ("first", first)):
            speech.add_done_callback(note(name))
        assert call.agent.current_speech is first
        await first
        await call.until(lambda: call.agent.current_speech is second)
        assert (third.heard, third.done()) == ("", False)
        await third
        call.expect.message("First.").message("Second.").message("Third.").nothing_more()
        await call.settled()
        assert over == ["first", "second", "third"]
        assert call.agent.current_speech is None
        generations = [message.generation for message in call.messages if isinstance(message, Audio)]
        assert generations == sorted(generations)
        assert len(set(generations)) == 3


@virtual_time
async def test_a_done_callback_is_called_at_once_when_the_speech_is_over() -> None:
    async with Call(VoiceAgent(task=Shop())) as call:
        await call.settled()
        speech = await call.agent.say("Hello.")
        over: list[SpeechHandle] = []
        speech.add_done_callback(over.append)
        assert over == [speech]


@virtual_time
async def test_interrupting_what_waits_leaves_the_rest_of_the_queue_alone() -> None:
    async with Call(VoiceAgent(task=Shop())) as call:
        await call.settled()
        first, second, third = (call.agent.say(text) for text in ("First.", "Second.", "Third."))
        second.interrupt()
        await third
        call.expect.message("First.").message("Third.").nothing_more()
        assert (first.interrupted, second.interrupted, third.interrupted) == (False, True, False)
        assert (await second).heard == ""


@virtual_time
async def test_agent_interrupt_stops_what_is_said_and_all_that_waits() -> None:
    async with Call(VoiceAgent(task=Shop())) as call:
        await call.settled()
        speeches = [call.agent.say(LONG), call.agent.say("Second."), call.agent.generate_reply()]
        await asyncio.sleep(2)
        call.agent.interrupt()
        for speech in speeches:
            assert (await speech).interrupted
        call.expect.message(re.compile("^one two"), interrupted=True).nothing_more()
        assert call.script.requests == []


@virtual_time
async def test_a_caller_who_cuts_in_stops_what_is_said_and_all_that_waits() -> None:
    async with Call(VoiceAgent(task=Shop()), "Yes?") as call:
        await call.settled()
        speeches = [call.agent.say(LONG), call.agent.say("Second."), call.agent.generate_reply()]
        await speaking(call)
        await barge_in(call, "wait")
        for speech in speeches:
            assert (await speech).interrupted
        await call.settled()
        call.expect.message(re.compile("^one two"), interrupted=True).user("wait").message("Yes?").nothing_more()


# --- interrupting -----------------------------------------------------------------------------------------------------


async def by_handle(call: Call, speech: SpeechHandle) -> None:
    speech.interrupt()


async def by_agent(call: Call, speech: SpeechHandle) -> None:
    call.agent.interrupt()


async def by_voice(call: Call, speech: SpeechHandle) -> None:
    await barge_in(call, "stop")


async def by_writing(call: Call, speech: SpeechHandle) -> None:
    call.send("stop")


async def by_button(call: Call, speech: SpeechHandle) -> None:
    call.interrupt()


@pytest.mark.parametrize("interrupt", [by_handle, by_agent, by_voice, by_writing, by_button])
@virtual_time
async def test_after_an_interruption_the_message_holds_what_was_heard(interrupt: Any) -> None:
    async with Call(VoiceAgent(task=Shop()), LONG, "Yes?") as call:
        call.send("Count")
        speech = await speaking(call)
        await asyncio.sleep(1.5)
        await interrupt(call, speech)
        await speech
        heard = speech.heard.split()
        assert 3 <= len(heard) <= 12
        assert heard == LONG.split()[: len(heard)]
        assert speech.text.startswith(speech.heard)
        assert speech.interrupted
        call.expect.user("Count").message(speech.heard, interrupted=True)
        await call.settled()
        assert call.interruptions == 1
        heard_ms = [message.heard_ms for message in call.messages if isinstance(message, Clear)]
        assert heard_ms[0] == pytest.approx(len(speech.heard) * 60, abs=400)
        assert outcomes(call)[0] == "interrupted"
        if interrupt in (by_voice, by_writing):
            call.expect.user("stop").message("Yes?").nothing_more()
            assert call.script.requests[1].chat[2].text == speech.heard


@virtual_time
async def test_what_was_not_heard_at_all_is_no_message() -> None:
    async with Call(VoiceAgent(task=Shop())) as call:
        await call.settled()
        speech = call.agent.say("Hello.").interrupt()
        assert (await speech).heard == ""
        call.expect.nothing_more()


@virtual_time
async def test_interrupting_a_reply_that_is_still_being_thought_of_ends_it() -> None:
    async with Call(VoiceAgent(task=Shop()), hangs(), "I am here.") as call:
        call.send("Hi")
        await call.until(lambda: call.script.requests)
        call.interrupt()
        await call.settled()
        call.expect.user("Hi").nothing_more()
        assert (outcomes(call), call.nodes.used) == (["interrupted"], {"vad": 1, "stt": 1})
        await call.write("Still there?")
        call.expect.user().message("I am here.").nothing_more()


@virtual_time
async def test_interrupting_twice_or_after_the_end_does_nothing() -> None:
    async with Call(VoiceAgent(task=Shop())) as call:
        await call.settled()
        over = await call.agent.say("Hello.")
        assert not over.interrupt().interrupted
        cut = call.agent.say(LONG)
        await asyncio.sleep(1)
        await cut.interrupt().interrupt()
        assert call.interruptions == 1


@virtual_time
async def test_cancelling_who_awaits_a_speech_leaves_the_speech_alone() -> None:
    async with Call(VoiceAgent(task=Shop())) as call:
        await call.settled()
        speech = call.agent.say("Hello there.")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await speech
        assert (await speech).heard == "Hello there."
        assert not speech.interrupted


# --- speech that allows no interruptions ------------------------------------------------------------------------------


@virtual_time
async def test_the_caller_can_not_cut_in_on_speech_that_allows_it_not_and_is_answered_after_it() -> None:
    async with Call(VoiceAgent(task=Shop()), "You said stop.") as call:
        await call.settled()
        speech = call.agent.say(LONG, allow_interruptions=False)
        await speaking(call)
        await barge_in(call, "stop")
        assert not speech.done()
        assert call.script.requests == []
        await call.settled()
        call.expect.message(LONG, interrupted=False).user("stop").message("You said stop.").nothing_more()
        assert call.interruptions == 0


@virtual_time
async def test_a_reply_that_allows_no_interruptions_is_finished_functions_and_all_before_the_next_turn() -> None:
    looked = step(LONG, calls("find_book", title="Emma"))
    agent = VoiceAgent(task=Shop(), allow_interruptions=False)
    async with Call(agent, looked, "Shelf 3.", "You said wait.") as call:
        call.send("Emma?")
        await speaking(call)
        await barge_in(call, "wait")
        await call.settled()
        call.expect.user("Emma?").message(LONG).function_call().function_output().message("Shelf 3.")
        call.expect.user("wait").message("You said wait.").nothing_more()
        assert call.interruptions == 0


@virtual_time
async def test_interrupting_speech_that_allows_it_not_needs_force() -> None:
    async with Call(VoiceAgent(task=Shop())) as call:
        await call.settled()
        speech, other = call.agent.say(LONG, allow_interruptions=False), call.agent.say("Other.")
        with pytest.raises(RuntimeError, match=r"interrupt\(force=True\)"):
            speech.interrupt()
        await asyncio.sleep(1)
        call.agent.interrupt()
        assert (speech.interrupted, other.interrupted) == (False, True)
        call.agent.interrupt(force=True)
        assert (await speech).interrupted
        call.expect.message(re.compile("^one two"), interrupted=True).nothing_more()


@pytest.mark.parametrize("interrupt", [by_writing, by_button])
@virtual_time
async def test_what_the_caller_does_on_purpose_cuts_off_any_speech(interrupt: Any) -> None:
    async with Call(VoiceAgent(task=Shop(), allow_interruptions=False), "Yes?") as call:
        await call.settled()
        speech = call.agent.say(LONG)
        await speaking(call)
        await interrupt(call, speech)
        assert (await speech).interrupted
        await call.settled()
        told = [message.text for message in call.agent.chat_ctx.messages if message.role == "user"]
        assert told == (["stop"] if interrupt is by_writing else [])
