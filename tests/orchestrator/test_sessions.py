"""Conversations through a real hub and real nodes: turns, interruptions, slow and failing engines, leaving."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
import uvloop

from orchestrator.agent import VoiceAgent
from orchestrator.factory import SessionInfo
from orchestrator.task import AgentTask
from protocol.errors import RemoteError
from protocol.ingest import Audio, Clear, Error, Metrics, Opened, State, Transcript
from services.llm import rule
from services.runtime.node import Node
from services.tts import espeak
from services.vad import silero
from tests.orchestrator.world import STT, ScriptedStt, World, event, events_until, speech, until


def ended(found: Any) -> bool:
    return isinstance(found, Metrics)


def test_a_spoken_turn_is_heard_answered_aloud_and_accounted_for() -> None:
    async def conversation() -> None:
        async with World() as world, await world.connect(reports_played=True) as client:
            await client.send_audio(speech())
            events = await events_until(client, lambda found: isinstance(found, Audio) and found.last)
            audio = [found for found in events if isinstance(found, Audio)]
            client.report_played(audio[-1].generation, 60_000)
            metrics = await event(client, ended)
            assert isinstance(events[0], Opened)
            heard = [found.text for found in events if isinstance(found, Transcript) and found.speaker == "user"]
            assert heard[0] == "hello"
            assert metrics.outcome == "completed"
            assert metrics.heard_ms == metrics.audio_ms == sum(len(found.pcm) for found in audio) // 32
            assert any(sample != 0 for found in audio for sample in found.pcm)
            assert all(len(found.pcm) == 640 for found in audio[:-2])
            stages = metrics.stages
            parts = stages.endpointing_ms + stages.stt_ms + stages.llm_ms + stages.tts_ms
            assert stages.total_ms == pytest.approx(parts, abs=0.1)

    uvloop.run(conversation())


def test_a_turn_in_which_nothing_is_recognised_says_so() -> None:
    async def conversation() -> None:
        async with World() as world, await world.connect(metadata={"text": ""}) as client:
            await client.send_audio(speech())
            assert (await event(client, ended)).outcome == "nothing_heard"

    uvloop.run(conversation())


def test_speech_interrupts_the_reply_and_only_what_was_played_counts_as_heard() -> None:
    agents: list[VoiceAgent] = []

    async def factory(session: SessionInfo) -> VoiceAgent:
        agents.append(VoiceAgent(instructions="You are Ann.", stt=STT(), min_interruption_duration=0.1))
        return agents[-1]

    async def conversation() -> None:
        async with World(factory) as world, await world.connect(reports_played=True) as client:
            await client.send_text("what can you do for me, tell me all of it")
            for _ in range(25):
                await event(client, lambda found: isinstance(found, Audio))
            client.report_played(client.generation, 400)
            talking = asyncio.create_task(client.send_audio(speech() * 4))
            cleared = await event(client, lambda found: isinstance(found, Clear))
            talking.cancel()
            assert cleared.heard_ms == 400
            said = [message for message in agents[0].chat_ctx.items if message.role == "assistant"]
            assert said[0].interrupted
            assert len(said[0].text.split()) <= 2
            assert cleared.generation > 1

    uvloop.run(conversation())


def test_an_interruption_by_the_client_stops_the_reply_and_raises_the_generation() -> None:
    async def conversation() -> None:
        async with World() as world, await world.connect() as client:
            await client.send_text("what can you do")
            first = await event(client, lambda found: isinstance(found, Audio))
            client.interrupt()
            cleared = await event(client, lambda found: isinstance(found, Clear))
            assert cleared.generation > first.generation
            assert (await event(client, ended)).outcome == "interrupted"
            await client.send_text("hello")
            rest = await events_until(client, ended)
            assert all(found.generation > first.generation for found in rest if isinstance(found, Audio))

    uvloop.run(conversation())


def test_a_recording_sent_faster_than_real_time_keeps_its_turns_apart() -> None:
    async def conversation() -> None:
        async with World() as world, await world.connect(reports_played=True) as client:
            sending = asyncio.create_task(client.send_audio(speech(silence_s=3.0) * 3 + bytes(32_000 * 6)))
            turns: dict[int, str] = {}
            while len(turns) < 3:
                found = await event(client, lambda one: isinstance(one, Metrics | Audio))
                if isinstance(found, Metrics):
                    turns[found.turn] = found.outcome
                else:
                    client.report_played(found.generation, 60_000)
            await sending
            assert sorted(turns) == [1, 2, 3]
            assert len(world.stt.segments) >= 3

    uvloop.run(conversation())


def test_a_segment_that_begins_before_the_last_final_is_not_lost() -> None:
    async def conversation() -> None:
        async with World() as world:
            world.stt.gates["go"] = gate = asyncio.Event()
            async with await world.connect(metadata={"final_after": "go"}) as client:
                talking = asyncio.create_task(pace(client, speech(silence_s=0.4) * 2 + bytes(32_000 * 2)))
                await event(client, lambda found: isinstance(found, State) and found.user == "speaking")
                await event(client, lambda found: isinstance(found, State) and found.user == "silent")
                await event(client, lambda found: isinstance(found, State) and found.user == "speaking")
                gate.set()
                events = await events_until(client, lambda found: isinstance(found, Transcript) and found.final)
                assert events[-1].text.startswith("hello hello")
                await talking

    uvloop.run(conversation())


async def pace(client: Any, pcm: bytes) -> None:
    """Send as a microphone does."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    for start in range(0, len(pcm), 640):
        await client.send_audio(pcm[start : start + 640])
        due += 0.02
        await asyncio.sleep(max(0.0, due - loop.time()))


def test_an_engine_that_takes_five_seconds_does_not_delay_another_sessions_audio() -> None:
    """The slow one never answers at all until it is told to: five seconds or more, the others must not notice."""

    async def conversation() -> None:
        async with World() as world:
            world.stt.gates["go"] = gate = asyncio.Event()
            async with (
                await world.connect(metadata={"final_after": "go"}) as slow,
                await world.connect(reports_played=True) as quick,
            ):
                await slow.send_audio(speech())
                await event(slow, lambda found: isinstance(found, State) and found.user == "speaking")
                for _ in range(3):
                    await quick.send_audio(speech())
                    found = await event(quick, lambda one: isinstance(one, Audio) and one.last)
                    quick.report_played(found.generation, 60_000)
                    metrics = await event(quick, ended)
                    assert metrics.outcome == "completed"
                    assert metrics.stages.stt_ms + metrics.stages.llm_ms + metrics.stages.tts_ms < 1_000
                assert not gate.is_set()
                gate.set()
                assert (await event(slow, ended)).outcome in ("completed", "failed")

    uvloop.run(conversation())


def test_an_stt_that_fails_again_and_again_fails_the_turn_and_says_why() -> None:
    async def conversation() -> None:
        async with World() as world, await world.connect(metadata={"fail": "yes", "text": ""}) as client:
            await client.send_audio(speech())
            error = await event(client, lambda found: isinstance(found, Error))
            assert "the recogniser is broken" in error.message
            assert (await event(client, ended)).outcome == "failed"

    uvloop.run(conversation())


def test_a_turn_whose_final_never_comes_is_answered_by_what_was_understood_of_it() -> None:
    async def conversation() -> None:
        async with World() as world, await world.connect(metadata={"fail": "yes", "text": "hello Ann"}) as client:
            await client.send_audio(speech())
            events = await events_until(client, ended)
            assert [found.code for found in events if isinstance(found, Error)] == ["engine"]
            heard = [found for found in events if isinstance(found, Transcript) and found.speaker == "user"]
            assert (heard[-1].text, heard[-1].final) == ("hello", True)

    uvloop.run(conversation())


def test_a_wrong_option_is_named_when_the_session_opens_and_no_node_dies() -> None:
    async def conversation() -> None:
        async with World() as world:
            with pytest.raises(
                RemoteError, match=r"scripted\.STT: option 'forbidden' is 'x'; allowed is nothing"
            ) as told:
                await world.connect(metadata={"forbidden": "x"})
            assert told.value.category == "configuration"
            await world.until_quiet()
            async with await world.connect() as client:
                await client.send_text("hello")
                assert (await event(client, ended)).outcome == "completed"

    uvloop.run(conversation())


def test_an_engine_that_nobody_serves_is_named_at_once() -> None:
    async def factory(session: SessionInfo) -> VoiceAgent:
        return VoiceAgent(instructions="x", stt=STT(), llm=Other())

    async def conversation() -> None:
        async with World(factory) as world:
            with pytest.raises(RemoteError, match="no node serves llm/other"):
                await world.connect()
            await world.until_quiet()

    uvloop.run(conversation())


class Other(rule.LLM, frozen=True, kw_only=True):
    """An engine that no node runs."""

    engine = "other"  # type: ignore[misc]


def test_a_session_more_than_there_are_slots_hears_overloaded_at_once() -> None:
    async def conversation() -> None:
        async with World(slots=1) as world, await world.connect():
            with pytest.raises(RemoteError, match="overloaded") as told:
                await world.connect()
            assert told.value.code == "overloaded"
            assert told.value.category == "retryable"

    uvloop.run(conversation())


def test_a_task_without_tts_answers_in_writing() -> None:
    async def factory(session: SessionInfo) -> VoiceAgent:
        return VoiceAgent(instructions="You are Ann.", stt=STT(), tts=None)

    async def conversation() -> None:
        async with World(factory) as world, await world.connect() as client:
            await client.send_text("hello")
            events = await events_until(client, ended)
            assert not [found for found in events if isinstance(found, Audio)]
            said = [found for found in events if isinstance(found, Transcript) and found.speaker == "agent"]
            assert said[-1].final
            assert said[-1].text

    uvloop.run(conversation())


def test_overridden_nodes_change_the_reply_while_it_streams() -> None:
    class Shouting(AgentTask):
        async def llm_node(self, chat_ctx: Any, fnc_ctx: Any) -> Any:
            async for chunk in super().llm_node(chat_ctx, fnc_ctx):
                yield chunk

        async def transcription_node(self, text: Any) -> Any:
            async for part in text:
                yield part.upper()

    async def factory(session: SessionInfo) -> VoiceAgent:
        return VoiceAgent(task=Shouting(instructions="You are Ann."), stt=STT())

    async def conversation() -> None:
        async with World(factory) as world, await world.connect() as client:
            await client.send_text("hello")
            events = await events_until(client, ended)
            said = [found.text for found in events if isinstance(found, Transcript) and found.speaker == "agent"]
            assert said[-1] == said[-1].upper()
            assert events[-1].outcome == "completed"

    uvloop.run(conversation())


def test_a_node_of_the_users_own_that_raises_fails_the_reply_and_not_the_session() -> None:
    class Broken(AgentTask):
        turns = itertools.count()

        async def llm_node(self, chat_ctx: Any, fnc_ctx: Any) -> Any:
            if next(self.turns) == 0:
                raise KeyError("missing")
            async for chunk in super().llm_node(chat_ctx, fnc_ctx):
                yield chunk

    async def factory(session: SessionInfo) -> VoiceAgent:
        return VoiceAgent(task=Broken(instructions="You are Ann."), stt=STT())

    async def conversation() -> None:
        async with World(factory) as world, await world.connect() as client:
            await client.send_text("hello")
            error = await event(client, lambda found: isinstance(found, Error))
            assert "KeyError" in error.message
            assert (await event(client, ended)).outcome == "failed"
            await client.send_text("hello")
            assert (await event(client, ended)).outcome == "completed"

    uvloop.run(conversation())


def test_streams_move_when_their_node_drains_and_when_it_is_lost() -> None:
    async def conversation() -> None:
        async with World() as world:
            async with await world.connect(reports_played=True) as client:
                second: list[Node] = [
                    world.start_node("vad", silero.Engine(), "vad-2"),
                    world.start_node("stt", ScriptedStt(), "stt-2"),
                    world.start_node("tts", espeak.Engine(), "tts-2"),
                ]
                await until(lambda: sum(node.state == "ready" for node in world.hub.pool.nodes) == 4 + len(second))
                for name in ("vad-1", "stt-1", "tts-1"):
                    world.nodes[name].drain()
                await until(lambda: second[0].used == 1 and second[1].used == 1)
                await client.send_audio(speech())
                found = await event(client, lambda one: isinstance(one, Audio) and one.last)
                client.report_played(found.generation, 60_000)
                assert (await event(client, ended)).outcome == "completed"
            await world.until_quiet()

    uvloop.run(conversation())


def test_a_session_leaves_nothing_behind_however_it_ends() -> None:
    async def conversation() -> None:
        async with World() as world:
            async with await world.connect() as client:  # said goodbye in the middle of speech
                await client.send_audio(speech(silence_s=0.0))
            async with await world.connect() as client:  # in the middle of a reply
                await client.send_text("what can you do")
                await event(client, lambda found: isinstance(found, Audio))
            await world.until_quiet()
            assert world.stt.opened == 2
            await until(lambda: world.stt.closed == 2)

    uvloop.run(conversation())
