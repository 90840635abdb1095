"""Which engines serve a task: its own, the agent's or the embedded ones; and tasks whose engines can't be had."""

from __future__ import annotations

import re
from collections.abc import AsyncIterable
from pathlib import Path
from typing import Any

import pytest

from orchestrator import AgentTask, AudioFrame, Handoff, TaskFailed, VoiceAgent
from orchestrator.engines import NOT_GIVEN
from orchestrator.testing import Call, Script, SimulatedNodes, calls, virtual_time
from protocol.engine import EngineSpec, Service
from protocol.errors import ConfigurationError, EngineError, NoNode, OptionError, RemoteError
from protocol.ingest import Audio
from services.llm import rule
from services.stt import pocketsphinx
from services.tts import espeak
from services.vad import silero
from tests.tasks.shop import Desk, Shop

HELLO = Path(__file__).parent.parent.parent / "examples" / "audio" / "01-slt-hello.wav"

# One that is not the embedded default, for each service.
OTHER: dict[Service, Any] = {
    "vad": silero.VAD(min_silence_ms=400),
    "stt": pocketsphinx.STT(words={"antiphon": "AE N T IH F AO N"}),
    "llm": rule.LLM(delay_ms=10),
    "tts": espeak.TTS(voice="de"),
}
SERVICES: list[Service] = ["vad", "stt", "llm", "tts"]


def served_by(call: Call, service: Service) -> list[EngineSpec]:
    """The engines whose streams were opened to do work, oldest first."""
    return [one.spec for one in call.nodes.openings if one.spec.service == service and not one.probe]


def sounds(call: Call) -> bool:
    return any(isinstance(message, Audio) and message.pcm for message in call.messages)


# --- engines: not given, given, None ----------------------------------------------------------------------------------


@pytest.mark.parametrize("service", SERVICES)
def test_an_engine_is_the_task_s_else_the_agent_s_else_the_embedded_one(service: Service) -> None:
    def chosen(task: Any, agent: Any) -> EngineSpec | None:
        first = Shop(**{service: task})
        engine: EngineSpec | None = getattr(VoiceAgent(task=first, **{service: agent}).engines(first), service)
        return engine

    embedded = {"vad": "silero", "stt": "pocketsphinx", "llm": "rule", "tts": "espeak"}[service]
    own, agents = OTHER[service], EngineSpec(service, "acme")
    assert chosen(NOT_GIVEN, NOT_GIVEN) == EngineSpec(service, embedded)
    assert chosen(NOT_GIVEN, agents) == agents
    assert chosen(own, agents) == own.spec()
    assert chosen(None, agents) is None
    assert chosen(NOT_GIVEN, None) is None
    assert chosen(own, None) == own.spec()


@virtual_time
async def test_without_a_tts_the_agent_only_writes() -> None:
    async with Call(VoiceAgent(task=Shop(tts=None)), "Hello there.") as call:
        await call.write("Hi")
        assert call.transcript == [("user", "Hi"), ("agent", "Hello there.")]
        assert not sounds(call)
        assert served_by(call, "tts") == []


@virtual_time
async def test_without_an_stt_the_caller_can_only_write() -> None:
    async with Call(VoiceAgent(task=Shop(stt=None)), "Hello there.") as call:
        await call.speak(HELLO, "hello there")
        call.nodes.stt.transcripts.clear()
        call.expect.nothing_more()
        assert (served_by(call, "stt"), served_by(call, "vad")) == ([], [])
        await call.write("Hi")
        call.expect.user("Hi").message("Hello there.")
        assert sounds(call)


@virtual_time
async def test_without_an_llm_there_are_no_replies_but_the_task_can_speak() -> None:
    async with Call(VoiceAgent(task=Shop(llm=None))) as call:
        await call.write("Hi")
        await call.agent.say("I only announce.")
        call.expect.user("Hi").message("I only announce.").nothing_more()
        await call.agent.generate_reply()
        call.expect.nothing_more()
        assert served_by(call, "llm") == []


@pytest.mark.parametrize(
    ("agents", "tasks", "speechs", "allowed"),
    [
        (True, NOT_GIVEN, NOT_GIVEN, True),
        (False, NOT_GIVEN, NOT_GIVEN, False),
        (True, False, NOT_GIVEN, False),
        (False, True, NOT_GIVEN, True),
        (True, False, True, True),
        (False, NOT_GIVEN, True, True),
        (True, NOT_GIVEN, False, False),
    ],
)
@virtual_time
async def test_interruptions_are_allowed_by_the_speech_else_the_task_else_the_agent(
    agents: bool, tasks: Any, speechs: Any, allowed: bool
) -> None:
    agent = VoiceAgent(task=Shop(allow_interruptions=tasks), allow_interruptions=agents)
    async with Call(agent, "Hello.") as call:
        await call.settled()
        spoken = agent.say("Hello.", allow_interruptions=speechs)
        replied = agent.generate_reply(allow_interruptions=speechs)
        assert (spoken.allow_interruptions, replied.allow_interruptions) == (allowed, allowed)
        await replied


# --- entering a task with engines of its own --------------------------------------------------------------------------


@virtual_time
async def test_a_handoff_to_a_task_with_other_engines_uses_them() -> None:
    then = AgentTask(instructions="You are billing.", **OTHER)
    async with Call(VoiceAgent(task=Desk(then)), calls("transfer"), "You owe nothing.") as call:
        await call.write("Transfer me")
        assert call.agent.current_task is then
        await call.speak(HELLO, "hello there")
        call.expect.skip(4).user("hello there").message("You owe nothing.").nothing_more()
        assert {service: served_by(call, service)[-1] for service in SERVICES} == {
            service: OTHER[service].spec() for service in SERVICES
        }
        assert served_by(call, "llm")[0] == EngineSpec("llm", "rule")


@virtual_time
async def test_the_engines_of_the_first_task_are_used_from_the_first_word_on() -> None:
    async with Call(VoiceAgent(task=Shop(**OTHER), llm=None, stt=None), "Hello.") as call:
        await call.speak(HELLO, "hello there")
        call.expect.user("hello there").message("Hello.")
        assert {service: served_by(call, service) for service in SERVICES} == {
            service: [OTHER[service].spec()] for service in SERVICES
        }


@virtual_time
async def test_a_task_without_tts_may_hand_over_to_one_with_it_and_back() -> None:
    class Speaking(AgentTask):
        async def on_enter(self) -> None:
            await self.agent.say("You can hear me.")

    first = Desk(Speaking(instructions="You speak.", tts=espeak.TTS()), tts=None)
    async with Call(VoiceAgent(task=first), calls("transfer")) as call:
        await call.settled()
        await call.agent.say("You can read me.")
        assert not sounds(call)
        await call.write("Transfer me")
        assert sounds(call)
        heard = len(served_by(call, "tts"))
        await call.agent.update_task(AgentTask(instructions="You write.", tts=None))
        await call.agent.say("You can read me again.")
        assert len(served_by(call, "tts")) == heard
        agents = [text for speaker, text in call.transcript if speaker == "agent"]
        assert agents == ["You can read me.", "You can hear me.", "You can read me again."]


REFUSALS = [
    pytest.param(
        OptionError("espeak.TTS", "voice", "xx", "allowed are en-us, de"),
        r"option 'voice' is 'xx'",
        id="unknown option",
    ),
    pytest.param(NoNode("no node serves tts/espeak: start one"), r"no node serves tts/espeak", id="no node"),
    pytest.param(EngineError("the model is broken", category="fatal"), r"the model is broken", id="failing engine"),
]


@pytest.mark.parametrize(("refusal", "told"), REFUSALS)
@virtual_time
async def test_engines_that_can_not_be_had_block_a_handoff(refusal: Any, told: str) -> None:
    then = AgentTask(instructions="You are billing.", tts=espeak.TTS(voice="xx"))
    async with Call(VoiceAgent(task=Desk(then, tts=None)), calls("transfer"), "I can't.", "I am here.") as call:
        await call.settled()
        call.nodes.refuse("tts", refusal, times=1)
        await call.write("Transfer me")
        blocked = re.compile(f"AgentTask could not be entered: .*{told}")
        call.expect.user().function_call().function_output(blocked, is_error=True).message("I can't.")
        await call.write("Still there?")
        call.expect.user().message("I am here.").nothing_more()
        assert isinstance(call.agent.current_task, Desk)
        assert not any(isinstance(item, Handoff) for item in call.agent.chat_ctx.items)


@pytest.mark.parametrize(("refusal", "told"), REFUSALS)
@virtual_time
async def test_engines_that_can_not_be_had_block_update_task(refusal: Any, told: str) -> None:
    async with Call(VoiceAgent(task=Shop()), "I am here.") as call:
        await call.settled()
        call.nodes.refuse("tts", refusal, times=1)
        with pytest.raises(TaskFailed, match=told):
            await call.agent.update_task(AgentTask(instructions="x", tts=espeak.TTS(voice="xx")))
        call.expect.error("task_failed", re.compile(told))
        await call.write("Still there?")
        call.expect.user().message("I am here.").nothing_more()


@pytest.mark.parametrize(("refusal", "told"), REFUSALS)
@virtual_time
async def test_engines_that_can_not_be_had_refuse_the_conversation_of_a_first_task(refusal: Any, told: str) -> None:
    nodes = SimulatedNodes()
    nodes.refuse("tts", refusal)
    with pytest.raises((NoNode, RemoteError), match=told):
        async with Call(VoiceAgent(task=Shop()), nodes=nodes):
            raise AssertionError("the call was opened")
    assert nodes.used == {}


@virtual_time
async def test_an_engine_whose_options_were_accepted_is_not_asked_again() -> None:
    then = Desk(AgentTask(instructions="x"), tts=espeak.TTS(voice="de"))
    async with Call(VoiceAgent(task=Desk(then)), calls("transfer"), calls("transfer")) as call:
        await call.write("Transfer me")
        await call.write("Again")
        probed = [one.spec for one in call.nodes.openings if one.probe and one.spec.service == "tts"]
        assert probed == [EngineSpec("tts", "espeak"), EngineSpec("tts", "espeak", {"voice": "de"})]


def test_an_engine_of_another_service_is_refused_by_name() -> None:
    agent = VoiceAgent(task=Shop(tts=rule.LLM()))
    with pytest.raises(ConfigurationError, match=r"tts=rule: this is an engine for llm, not for tts"):
        agent.engines()
    with pytest.raises(ConfigurationError, match=r"llm='gpt': expected an option object"):
        VoiceAgent(instructions="x", llm="gpt").engines()  # type: ignore[arg-type]


# --- an STT that does not stream needs a VAD --------------------------------------------------------------------------

BOTH_WAYS_OUT = (
    r"has stt/pocketsphinx but no VAD.*Give the task a VAD, as in vad=silero.VAD\(\), or an STT that streams"
)


@virtual_time
async def test_a_first_task_with_an_stt_that_does_not_stream_and_no_vad_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=f"Shop {BOTH_WAYS_OUT}"):
        async with Call(VoiceAgent(task=Shop(vad=None))):
            raise AssertionError("the call was opened")


@virtual_time
async def test_a_handoff_to_an_stt_that_does_not_stream_without_vad_is_blocked() -> None:
    then = Shop(vad=None)
    async with Call(VoiceAgent(task=Desk(then)), calls("transfer"), "I can't.") as call:
        await call.write("Transfer me")
        blocked = re.compile(f"Shop could not be entered: Shop {BOTH_WAYS_OUT}")
        call.expect.user().function_call().function_output(blocked, is_error=True).message("I can't.").nothing_more()
        assert isinstance(call.agent.current_task, Desk)


class Streaming(SimulatedNodes):
    """Its stt finds speech itself."""

    def finds_speech(self, spec: EngineSpec) -> bool:
        return True


@virtual_time
async def test_an_stt_that_streams_needs_no_vad() -> None:
    script = Script("Hello.")
    async with Call(VoiceAgent(task=Shop(vad=None)), script, nodes=Streaming(script)) as call:
        await call.write("Hi")
        call.expect.user("Hi").message("Hello.").nothing_more()
        assert served_by(call, "vad") == []
        assert served_by(call, "stt") == [EngineSpec("stt", "pocketsphinx")]


@virtual_time
async def test_an_stt_node_of_the_tasks_own_needs_a_vad_whatever_the_engine() -> None:
    class Own(Shop):
        async def stt_node(self, audio: AsyncIterable[AudioFrame]) -> str:
            return "hello"

    with pytest.raises(ConfigurationError, match=r"Own has an stt_node of its own but no VAD.*Give the task a VAD"):
        async with Call(VoiceAgent(task=Own(vad=None)), nodes=Streaming()):
            raise AssertionError("the call was opened")


@virtual_time
async def test_without_a_vad_a_task_that_does_not_listen_is_fine() -> None:
    async with Call(VoiceAgent(task=Shop(vad=None, stt=None)), "Hello.") as call:
        await call.write("Hi")
        call.expect.user("Hi").message("Hello.")


@virtual_time
async def test_in_a_conversation_without_sound_only_the_llm_is_asked_for() -> None:
    async with Call(VoiceAgent(task=Shop(vad=None)), "Hello.", text_only=True) as call:
        await call.write("Hi")
        call.expect.user("Hi").message("Hello.")
        assert {one.spec.service for one in call.nodes.openings} == {"llm"}
