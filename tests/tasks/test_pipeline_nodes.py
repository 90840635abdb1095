"""The nodes of a reply, overridden: llm_node, transcription_node, tts_node. Of stt_node: test_stt_node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest

from orchestrator import AgentTask, AudioFrame, ChatChunk, ChatContext, FunctionCall, FunctionContext, VoiceAgent
from orchestrator.events import TurnMetrics
from orchestrator.testing import Call, calls, fails, pause, says, step, virtual_time
from protocol.errors import AntiphonError
from protocol.ingest import Audio, Transcript
from tests.tasks.shop import Shop

RATE = 16_000


def own(**nodes: Callable[..., Any]) -> AgentTask:
    """A task with these functions in place of its nodes."""
    return type("Own", (Shop,), nodes)()  # type: ignore[no-any-return]


class Iterable:
    """An async iterable that is no generator."""

    def __init__(self, *values: Any) -> None:
        self.values = values

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._values()

    async def _values(self) -> AsyncIterator[Any]:
        for value in self.values:
            yield value


def returning(value: Callable[[Any], Any]) -> Callable[..., Any]:
    """A node that is a coroutine."""

    async def node(self: Any, *_: Any) -> Any:
        return value(self)

    return node


def yielding(*values: Any) -> Callable[..., Any]:
    """A node that is an async generator."""

    async def node(self: Any, *_: Any) -> AsyncIterator[Any]:
        for value in values:
            yield value

    return node


def tone(duration_ms: int, level: int = 1_000) -> AudioFrame:
    return AudioFrame(np.full(RATE * duration_ms // 1000, level, dtype="<i2").tobytes(), RATE)


def samples(call: Call) -> Any:
    """What the client was sent."""
    pcm = b"".join(message.pcm for message in call.messages if isinstance(message, Audio))
    return np.frombuffer(pcm, dtype="<i2")


def outcomes(call: Call) -> list[str]:
    return [event.outcome for event in call.events if isinstance(event, TurnMetrics)]


# --- llm_node ---------------------------------------------------------------------------------------------------------

CHUNKS = ("It is ", ChatChunk("nine "), "o'clock.")
WRITERS = {
    "a generator": yielding(*CHUNKS),
    "a coroutine with text": returning(lambda _: "It is nine o'clock."),
    "a coroutine with a chunk": returning(lambda _: ChatChunk("It is nine o'clock.")),
    "a coroutine with a generator": returning(yielding(*CHUNKS)),
    "a coroutine with an iterable": returning(lambda _: Iterable(*CHUNKS)),
    "a function with an iterable": lambda self, *_: Iterable(*CHUNKS),
}


@pytest.mark.parametrize("form", WRITERS)
@virtual_time
async def test_an_llm_node_may_answer_without_the_llm(form: str) -> None:
    async with Call(VoiceAgent(task=own(llm_node=WRITERS[form]))) as call:
        await call.write("What time is it?")
        call.expect.user().message("It is nine o'clock.").nothing_more()
        assert call.nodes.tts.spoken == ["It is nine o'clock."]
        assert (call.script.requests, outcomes(call)) == ([], ["completed"])


@virtual_time
async def test_an_llm_node_that_returns_none_makes_no_reply() -> None:
    async with Call(VoiceAgent(task=own(llm_node=returning(lambda _: None)))) as call:
        await call.write("Hi")
        call.expect.user("Hi").nothing_more()
        assert outcomes(call) == ["no_reply"]


class Polite(Shop):
    """Reaches the default through super(), and changes what it gives."""

    async def llm_node(self, chat_ctx: ChatContext, fnc_ctx: FunctionContext) -> AsyncIterator[ChatChunk | str]:
        chat_ctx.add_message("system", "Be polite.")
        async for chunk in super().llm_node(chat_ctx, fnc_ctx):  # type: ignore[union-attr]
            yield chunk
        yield "Sir."


@virtual_time
async def test_an_llm_node_may_change_what_the_llm_is_told_and_what_it_says() -> None:
    async with Call(VoiceAgent(task=Polite()), "Good morning, ") as call:
        await call.write("Hi")
        call.expect.user("Hi").message("Good morning, Sir.").nothing_more()
        told = [(item.role, item.text) for item in call.script.requests[0].chat]
        assert told == [("system", "You sell books."), ("user", "Hi"), ("system", "Be polite.")]
        assert [item.text for item in call.agent.chat_ctx.messages] == ["Hi", "Good morning, Sir."]


@pytest.mark.parametrize("coroutine", [False, True])
@virtual_time
async def test_self_default_is_the_node_as_it_would_be(coroutine: bool) -> None:
    def plain(self: AgentTask, chat: ChatContext, functions: FunctionContext) -> AsyncIterator[ChatChunk]:
        return self.default.llm_node(chat, functions)

    async def awaited(self: AgentTask, chat: ChatContext, functions: FunctionContext) -> AsyncIterator[ChatChunk]:
        return self.default.llm_node(chat, functions)

    async with Call(VoiceAgent(task=own(llm_node=awaited if coroutine else plain)), "Hello.") as call:
        await call.write("Hi")
        call.expect.user("Hi").message("Hello.").nothing_more()


@virtual_time
async def test_the_default_nodes_outside_a_reply_say_where_they_work() -> None:
    with pytest.raises(RuntimeError, match="Shop: the default nodes work only while the conversation calls a node"):
        await anext(aiter(Shop().default.llm_node(ChatContext(), FunctionContext())))


@pytest.mark.parametrize(
    ("change", "offered"),
    [
        (lambda functions: functions.without("find_book"), []),
        (lambda functions: functions.only("find_book"), ["find_book"]),
        (lambda functions: FunctionContext(), []),
    ],
)
@virtual_time
async def test_an_llm_node_may_choose_the_functions_that_are_offered(
    change: Callable[[FunctionContext], FunctionContext], offered: list[str]
) -> None:
    def choosing(self: AgentTask, chat: ChatContext, functions: FunctionContext) -> AsyncIterator[ChatChunk]:
        return self.default.llm_node(chat, change(functions))

    async with Call(VoiceAgent(task=own(llm_node=choosing)), "Hello.") as call:
        await call.write("Hi")
        assert [function.name for function in call.script.requests[0].functions] == offered


@virtual_time
async def test_an_llm_node_may_call_a_function_itself() -> None:
    async def calling(self: AgentTask, chat: ChatContext, functions: FunctionContext) -> AsyncIterator[ChatChunk | str]:
        if any(item.kind == "function_output" for item in chat):
            yield "On shelf 3."
            return
        yield "Let me look."
        yield ChatChunk(call=FunctionCall("find_book", '{"title": "Emma"}', "mine-1"))

    async with Call(VoiceAgent(task=own(llm_node=calling))) as call:
        await call.write("Emma?")
        call.expect.user().message("Let me look.").function_call("find_book", title="Emma")
        call.expect.function_output("Emma: shelf 3").message("On shelf 3.").nothing_more()
        assert call.script.requests == []


@virtual_time
async def test_an_llm_node_may_keep_calls_from_being_made() -> None:
    async def deaf(self: AgentTask, chat: ChatContext, functions: FunctionContext) -> AsyncIterator[str]:
        async for chunk in self.default.llm_node(chat, functions):
            yield chunk.text

    async with Call(VoiceAgent(task=own(llm_node=deaf)), step("No.", calls("find_book", title="Emma"))) as call:
        await call.write("Emma?")
        call.expect.user().message("No.").nothing_more()


# --- streaming --------------------------------------------------------------------------------------------------------


@virtual_time
async def test_the_first_output_of_each_node_leaves_before_its_input_has_ended() -> None:
    seen: list[str] = []

    class Noting(Shop):
        async def llm_node(self, chat_ctx: ChatContext, fnc_ctx: FunctionContext) -> AsyncIterator[ChatChunk]:
            async for chunk in self.default.llm_node(chat_ctx, fnc_ctx):
                seen.append("llm")
                yield chunk
            seen.append("llm ended")

        async def transcription_node(self, text: AsyncIterable[str]) -> AsyncIterator[str]:
            async for part in self.default.transcription_node(text):
                seen.append("transcription")
                yield part

        async def tts_node(self, text: AsyncIterable[str]) -> AsyncIterator[AudioFrame]:
            async for frame in self.default.tts_node(text):
                seen.append("tts")
                yield frame

    slow = step("One moment, please. I am", pause(30), says(" looking."))
    async with Call(VoiceAgent(task=Noting()), slow) as call:
        call.send("Emma?")
        await call.until(lambda: samples(call).size, 1, "the first sound, half a minute before the llm has ended")
        assert set(seen) == {"llm", "transcription", "tts"}
        shown = [one.text for one in call.messages if isinstance(one, Transcript) and one.speaker == "agent"]
        assert shown == ["One moment,"]
        await call.settled()
        assert "llm ended" in seen
        call.expect.user().message("One moment, please. I am looking.")


@virtual_time
async def test_the_tts_gets_sentences_the_first_piece_early_and_abbreviations_whole() -> None:
    reply = "Good morning, Dr. Smith. That makes 3.50 euros... Or 4, i.e. more. Bye!"
    async with Call(VoiceAgent(task=Shop()), reply) as call:
        await call.write("Hi")
        call.expect.user().message(reply)
        assert [piece.strip() for piece in call.nodes.tts.spoken] == [
            "Good morning,",
            "Dr. Smith.",
            "That makes 3.50 euros...",
            "Or 4, i.e. more.",
            "Bye!",
        ]


# --- transcription_node -----------------------------------------------------------------------------------------------

TELLERS = {
    "a generator": yielding("It is ", "nine o'clock."),
    "a coroutine with text": returning(lambda _: "It is nine o'clock."),
    "a coroutine with a generator": returning(yielding("It is ", "nine o'clock.")),
    "a coroutine with an iterable": returning(lambda _: Iterable("It is ", "nine o'clock.")),
}


@pytest.mark.parametrize("form", TELLERS)
@virtual_time
async def test_what_a_transcription_node_gives_takes_the_place_of_the_text(form: str) -> None:
    async with Call(VoiceAgent(task=own(transcription_node=TELLERS[form]))) as call:
        await call.settled()
        await call.agent.say("It is 9:00.")
        call.expect.message("It is nine o'clock.").nothing_more()


@virtual_time
async def test_what_a_transcription_node_yields_is_shown_stored_and_spoken() -> None:
    class Loud(Shop):
        async def transcription_node(self, text: AsyncIterable[str]) -> AsyncIterator[str]:
            async for part in super().transcription_node(text):  # type: ignore[union-attr]
                yield part.upper()

    task = Loud()
    async with Call(VoiceAgent(task=task), "Hello there.", "Again.") as call:
        await call.write("Hi")
        assert call.transcript == [("user", "Hi"), ("agent", "HELLO THERE.")]
        assert [message.text for message in task.chat_ctx.messages] == ["Hi", "HELLO THERE."]
        assert call.nodes.tts.spoken == ["HELLO THERE."]
        await call.write("Well?")
        assert call.script.requests[1].chat[2].text == "HELLO THERE."


@virtual_time
async def test_a_transcription_node_changes_what_say_says_and_what_is_only_written() -> None:
    async def shout(self: AgentTask, text: AsyncIterable[str]) -> AsyncIterator[str]:
        async for part in text:
            yield part.upper()

    async with Call(VoiceAgent(task=own(transcription_node=shout), tts=None), "Hello.") as call:
        await call.settled()
        await call.agent.say("Welcome.")
        await call.write("Hi")
        call.expect.message("WELCOME.").user("Hi").message("HELLO.")


@virtual_time
async def test_a_transcription_node_that_returns_none_leaves_nothing_to_say() -> None:
    async with Call(VoiceAgent(task=own(transcription_node=returning(lambda _: None)))) as call:
        await call.settled()
        speech = await call.agent.say("Hello.")
        call.expect.nothing_more()
        assert (speech.text, speech.heard, speech.interrupted, speech.error) == ("", "", False, None)


# --- tts_node ---------------------------------------------------------------------------------------------------------


async def quiet(self: AgentTask, text: AsyncIterable[str]) -> AsyncIterator[AudioFrame]:
    """Reads the text, and speaks it with a voice of its own: 100 ms for each word."""
    async for part in text:
        for _ in part.split():
            yield tone(100)


VOICES = {
    "a generator": yielding(tone(300), tone(700)),
    "a coroutine with a frame": returning(lambda _: tone(1000)),
    "a coroutine with a generator": returning(yielding(tone(300), tone(700))),
    "a coroutine with an iterable": returning(lambda _: Iterable(tone(300), tone(700))),
}


@pytest.mark.parametrize("form", VOICES)
@virtual_time
async def test_a_tts_node_may_have_a_voice_of_its_own(form: str) -> None:
    async with Call(VoiceAgent(task=own(tts_node=VOICES[form]))) as call:
        await call.settled()
        await call.agent.say("Hello there.")
        assert len(samples(call)) == RATE
        assert set(samples(call)) == {1_000}
        assert call.nodes.opened("tts") == 0
        call.expect.message("Hello there.").nothing_more()


@virtual_time
async def test_a_tts_node_may_change_the_samples_of_the_engine() -> None:
    async def half(self: AgentTask, text: AsyncIterable[str]) -> AsyncIterator[AudioFrame]:
        async for frame in self.default.tts_node(text):
            quieter = (np.frombuffer(frame.pcm, dtype="<i2") // 2).astype("<i2")
            yield AudioFrame(quieter.tobytes(), frame.sample_rate)

    async with Call(VoiceAgent(task=Shop())) as plain, Call(VoiceAgent(task=own(tts_node=half))) as call:
        for one in (plain, call):
            await one.settled()
            await one.agent.say("Hello there.")
        assert len(samples(call)) == len(samples(plain)) > 0
        assert np.array_equal(samples(call), samples(plain) // 2)
        call.expect.message("Hello there.")


@virtual_time
async def test_a_tts_node_may_give_the_engine_other_words_than_are_shown() -> None:
    def spelled(self: AgentTask, text: AsyncIterable[str]) -> AsyncIterator[AudioFrame]:
        async def respelled() -> AsyncIterator[str]:
            async for part in text:
                yield part.replace("SQL", "sequel")

        return self.default.tts_node(respelled())

    async with Call(VoiceAgent(task=own(tts_node=spelled)), "Use SQL.") as call:
        await call.write("What?")
        assert call.nodes.tts.spoken == ["Use sequel."]
        call.expect.user().message("Use SQL.")
        assert call.transcript[-1] == ("agent", "Use SQL.")


@pytest.mark.parametrize("silent", [returning(lambda _: None), yielding(), AgentTask.tts_node])
@virtual_time
async def test_what_a_tts_node_leaves_without_sound_is_shown_and_stored(silent: Callable[..., Any]) -> None:
    async with Call(VoiceAgent(task=own(tts_node=silent), tts=None), "Hello there.") as call:
        await call.write("Hi")
        call.expect.user("Hi").message("Hello there.").nothing_more()
        assert call.transcript[-1] == ("agent", "Hello there.")
        assert (len(samples(call)), outcomes(call)) == (0, ["completed"])


# --- further uses -----------------------------------------------------------------------------------------------------


@virtual_time
async def test_an_llm_node_may_ask_the_default_again_when_it_has_failed() -> None:
    async def patient(self: AgentTask, chat: ChatContext, functions: FunctionContext) -> AsyncIterator[ChatChunk]:
        try:
            async for chunk in self.default.llm_node(chat, functions):
                yield chunk
        except AntiphonError:
            async for chunk in self.default.llm_node(chat, functions):
                yield chunk

    async with Call(VoiceAgent(task=own(llm_node=patient)), fails("the model is down"), "Hello.") as call:
        await call.write("Hi")
        call.expect.user("Hi").message("Hello.").nothing_more()


@virtual_time
async def test_a_tts_node_may_use_the_default_for_one_part_after_the_other() -> None:
    async def chimed(self: AgentTask, text: AsyncIterable[str]) -> AsyncIterator[AudioFrame]:
        async for part in text:
            async for frame in self.default.tts_node(Iterable(part)):
                yield frame
            yield tone(100)

    async with Call(VoiceAgent(task=own(tts_node=chimed))) as call:
        await call.settled()
        speech = await call.agent.say(Iterable("One. ", "Two."))
        assert call.nodes.tts.spoken == ["One. ", "Two."]
        assert speech.heard == "One. Two."
        assert len(samples(call)) == pytest.approx(RATE * (len("One. Two.") * 0.06 + 0.2), abs=1)


@pytest.mark.parametrize("rate", [8_000, 24_000, 48_000])
@virtual_time
async def test_the_audio_of_a_tts_node_may_have_any_rate(rate: int) -> None:
    second = AudioFrame(np.full(rate, 1_000, dtype="<i2").tobytes(), rate)
    async with Call(VoiceAgent(task=own(tts_node=yielding(second)))) as call:
        await call.settled()
        await call.agent.say("Hello.")
        assert len(samples(call)) == pytest.approx(RATE, abs=RATE // 50)


@virtual_time
async def test_a_frame_that_lasts_for_a_minute_is_sent_at_the_pace_at_which_it_is_played() -> None:
    async def slow(self: AgentTask, text: AsyncIterable[str]) -> AudioFrame:
        assert [part async for part in text]
        return tone(60_000)

    async with Call(VoiceAgent(task=own(tts_node=slow))) as call:
        await call.settled()
        speech = call.agent.say("one two three four five six seven eight nine ten")
        await asyncio.sleep(15)
        assert 15 < len(samples(call)) / RATE < 17
        speech.interrupt()
        assert (await speech).heard == "one two three"  # a quarter of it
