"""stt_node, overridden: called for each run of speech, with its frames as they come."""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator import AgentTask, AudioFrame, SpeechEvent, VoiceAgent
from orchestrator.events import UserInputTranscribed
from orchestrator.testing import Call, calls, virtual_time
from protocol.errors import EngineError
from protocol.ingest import Audio, Transcript
from tests.tasks.shop import Desk, Shop
from tests.tasks.test_node_failures import told
from tests.tasks.test_pipeline_nodes import Iterable, outcomes, own, returning, yielding

AUDIO = Path(__file__).parent.parent.parent / "examples" / "audio"
HELLO = AUDIO / "01-slt-hello.wav"
UNHEARD = "what the engine would have recognised"
LOUD = np.full(16_000, 5_000, dtype="<i2").tobytes()  # one second of what is taken for speech


def transcribed(call: Call) -> list[tuple[str, bool]]:
    """What the client was shown of the user's speech."""
    return [(one.text, one.final) for one in call.messages if isinstance(one, Transcript) and one.speaker == "user"]


HEARERS = {
    "a generator of events": yielding(SpeechEvent("good"), SpeechEvent("good morning", final=True)),
    "a generator whose last event does not say that it is final": yielding(SpeechEvent("good morning")),
    "a generator of text": yielding("good morning"),
    "a coroutine with text": returning(lambda _: "good morning"),
    "a coroutine with an event": returning(lambda _: SpeechEvent("good morning", final=True)),
    "a coroutine with a generator": returning(yielding(SpeechEvent("good morning", final=True))),
    "a coroutine with an iterable": returning(lambda _: Iterable(SpeechEvent("good morning", final=True))),
}


@pytest.mark.parametrize("form", HEARERS)
@virtual_time
async def test_an_stt_node_may_do_without_the_engine(form: str) -> None:
    async with Call(VoiceAgent(task=own(stt_node=HEARERS[form])), "Hello.") as call:
        await call.speak(HELLO, UNHEARD)
        call.expect.user("good morning").message("Hello.").nothing_more()
        assert transcribed(call)[-1] == ("good morning", True)
        assert call.nodes.opened("stt") == 0


@virtual_time
async def test_an_stt_node_that_returns_none_has_heard_nothing() -> None:
    async with Call(VoiceAgent(task=own(stt_node=returning(lambda _: None)))) as call:
        await call.speak(HELLO, UNHEARD)
        call.expect.nothing_more()
        assert outcomes(call) == ["nothing_heard"]


@virtual_time
async def test_an_stt_node_without_an_stt_engine_hears() -> None:
    async with Call(VoiceAgent(task=own(stt_node=yielding("good morning")), stt=None), "Hello.") as call:
        await call.speak(HELLO, UNHEARD)
        call.expect.user("good morning").message("Hello.").nothing_more()


@virtual_time
async def test_an_stt_node_may_change_the_transcript_of_the_default() -> None:
    class Shouting(Shop):
        async def stt_node(self, audio: AsyncIterable[AudioFrame]) -> AsyncIterator[SpeechEvent]:
            async for event in super().stt_node(audio):  # type: ignore[union-attr]
                assert isinstance(event, SpeechEvent)
                yield SpeechEvent(event.text.upper(), event.final, event.confidence)

    async with Call(VoiceAgent(task=Shouting()), "Hello.") as call:
        await call.speak(HELLO, "hello there my friend")
        call.expect.user("HELLO THERE MY FRIEND").message("Hello.").nothing_more()
        assert transcribed(call) == [
            ("HELLO THERE", False),
            ("HELLO THERE MY FRIEND", False),
            ("HELLO THERE MY FRIEND", True),
        ]


@virtual_time
async def test_an_stt_node_may_change_the_audio_that_the_engine_hears() -> None:
    def shortened(self: AgentTask, audio: AsyncIterable[AudioFrame]) -> AsyncIterator[SpeechEvent]:
        async def half() -> AsyncIterator[AudioFrame]:
            async for frame in audio:
                samples = np.frombuffer(frame.pcm, dtype="<i2")
                yield AudioFrame(samples[: len(samples) // 2].tobytes(), frame.sample_rate)

        return self.default.stt_node(half())

    lengths: list[float] = []
    for task in (Shop(), own(stt_node=shortened)):
        async with Call(VoiceAgent(task=task), "Hello.") as call:
            await call.speak(HELLO, "hello there")
            lengths += call.nodes.stt.segments_ms
    whole, halved = lengths
    assert halved == pytest.approx(whole / 2, abs=1)


@virtual_time
async def test_an_stt_node_is_called_for_each_run_of_speech_with_its_frames() -> None:
    heard: list[float] = []

    async def counting(self: AgentTask, audio: AsyncIterable[AudioFrame]) -> str:
        heard.append(0.0)
        async for frame in audio:
            assert frame.sample_rate == 16_000
            heard[-1] += frame.duration_ms
        return f"run {len(heard)}"

    async with Call(VoiceAgent(task=own(stt_node=counting)), "One.", "Two.", "Three.") as call:
        for name in ("01-slt-hello.wav", "04-slt-hours.wav"):
            await call.speak(AUDIO / name, UNHEARD)
        call.expect.user("run 1").message("One.").user("run 2").message("Two.").nothing_more()
        await call.write("In writing")
        call.expect.user("In writing").message("Three.").nothing_more()
        assert len(heard) == 2
        assert all(500 < duration_ms < 5_000 for duration_ms in heard)


@virtual_time
async def test_two_runs_of_speech_in_one_turn_are_put_together() -> None:
    words = iter(["good", "morning"])

    async def hearing(self: AgentTask, audio: AsyncIterable[AudioFrame]) -> str:
        async for _ in audio:
            pass
        return next(words)

    agent = VoiceAgent(task=own(stt_node=hearing), min_endpointing_delay=0.8)
    async with Call(agent, "Hello.") as call:
        await call.play(LOUD)
        await call.silence(0.5)
        await call.play(LOUD)
        await call.silence(1.5)
        await call.settled()
        call.expect.user("good morning").message("Hello.").nothing_more()


@virtual_time
async def test_partials_are_shown_while_the_caller_still_speaks() -> None:
    async def eager(self: AgentTask, audio: AsyncIterable[AudioFrame]) -> AsyncIterator[SpeechEvent]:
        duration_ms = 0.0
        async for frame in audio:
            duration_ms += frame.duration_ms
            if 500 < duration_ms <= 520:
                yield SpeechEvent("good")
        yield SpeechEvent("good morning", final=True)

    async with Call(VoiceAgent(task=own(stt_node=eager)), "Hello.") as call:
        await call.play(LOUD)
        assert transcribed(call) == [("good", False)]
        await call.silence(1)
        await call.settled()
        assert transcribed(call)[1:] == [("good morning", False), ("good morning", True)]
        events = [event for event in call.events if isinstance(event, UserInputTranscribed)]
        assert [(event.text, event.final) for event in events] == transcribed(call)


@virtual_time
async def test_a_caller_cuts_in_on_an_agent_that_hears_with_a_node_of_its_own() -> None:
    async with Call(VoiceAgent(task=own(stt_node=yielding("stop"))), "word " * 50, "Yes?") as call:
        call.send("Tell me")
        await call.until(lambda: call.state == "speaking")
        await call.play(LOUD)
        await call.silence(1)
        await call.settled()
        call.expect.user("Tell me").message(re.compile("^word word"), interrupted=True).user("stop").message("Yes?")


# --- failing ----------------------------------------------------------------------------------------------------------


async def unlucky(self: AgentTask, audio: AsyncIterable[AudioFrame]) -> str:
    async for _ in audio:
        pass
    raise ValueError("no microphone")


FAILURES: list[tuple[Callable[..., Any], str]] = [
    (unlucky, "the speech could not be recognised: ValueError: no microphone"),
    (yielding(3), "stt_node of Own yielded int; it must yield SpeechEvent or str"),
    (returning(lambda _: b"x"), "stt_node of Own gave bytes; it must give SpeechEvent or str, or an async iterable"),
]


@pytest.mark.parametrize(("node", "problem"), FAILURES)
@virtual_time
async def test_an_stt_node_that_fails_loses_the_turn_and_not_the_conversation(
    node: Callable[..., Any], problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Call(VoiceAgent(task=own(stt_node=node)), "Hello.") as call:
        await call.speak(HELLO, UNHEARD)
        assert [problem in one for one in told(call)] == [True]
        assert outcomes(call) == ["failed"]
        assert "Traceback" in caplog.text
        await call.write("Can you read me?")
        call.expect.error("engine").user("Can you read me?").message("Hello.").nothing_more()


@virtual_time
async def test_the_agent_s_listeners_are_told_of_speech_that_could_not_be_recognised() -> None:
    async with Call(VoiceAgent(task=own(stt_node=unlucky))) as call:
        await call.speak(HELLO, UNHEARD)
        call.expect.error("engine", re.compile("no microphone")).nothing_more()


@virtual_time
async def test_an_engine_that_fails_in_the_default_stt_node_loses_the_turn_and_not_the_conversation() -> None:
    def plain(self: AgentTask, audio: AsyncIterable[AudioFrame]) -> AsyncIterator[SpeechEvent]:
        return self.default.stt_node(audio)

    async with Call(VoiceAgent(task=own(stt_node=plain)), "Hello.") as call:
        call.nodes.stt.transcripts.append(EngineError("the decoder crashed", category="retryable"))
        await call.play(LOUD)
        await call.silence(1)
        await call.settled()
        assert told(call) == ["the decoder crashed"]
        await call.speak(HELLO, "hello there")
        call.expect.error().user("hello there").message("Hello.").nothing_more()


@virtual_time
async def test_an_stt_node_is_closed_when_the_caller_hangs_up_in_the_middle_of_a_word() -> None:
    closed: list[bool] = []

    async def noting(self: AgentTask, audio: AsyncIterable[AudioFrame]) -> AsyncIterator[SpeechEvent]:
        try:
            async for _ in audio:
                yield SpeechEvent("good")
        finally:
            closed.append(True)

    async with Call(VoiceAgent(task=own(stt_node=noting))) as call:
        await call.play(LOUD)
        assert closed == []
        await call.hang_up()
        assert closed == [True]


# --- handing over -----------------------------------------------------------------------------------------------------


@virtual_time
async def test_a_handoff_changes_who_hears() -> None:
    listening = own(stt_node=yielding("by my own ears"))
    async with Call(VoiceAgent(task=Desk(listening)), calls("transfer"), "One.", "Two.") as call:
        await call.speak(HELLO, "transfer me")
        await call.speak(HELLO, UNHEARD)
        await call.agent.update_task(Shop())
        call.nodes.stt.transcripts.clear()
        await call.speak(HELLO, "by the engine")
        said = [message.text for message in call.agent.chat_ctx.messages if message.role == "user"]
        assert said == ["transfer me", "by my own ears", "by the engine"]


@virtual_time
async def test_a_task_that_does_not_listen_may_hand_over_to_one_that_does_and_back() -> None:
    deaf, listening = Shop(stt=None), Shop()
    async with Call(VoiceAgent(task=deaf), "One.") as call:
        await call.play(LOUD)
        await call.agent.update_task(listening)
        await call.speak(HELLO, "hello there")
        call.expect.handoff(Shop).user("hello there").message("One.")
        await call.agent.update_task(Shop(stt=None))
        await call.play(LOUD)
        await call.silence(1)
        await call.settled()
        said = [message.text for message in call.agent.chat_ctx.messages]
        assert said == ["hello there", "One."]
        assert call.nodes.used == {}
        assert any(isinstance(message, Audio) for message in call.messages)
