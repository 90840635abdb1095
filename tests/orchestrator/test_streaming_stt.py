"""A conversation without a vad: an stt engine that streams says itself when somebody speaks and when they stop."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import uvloop

from orchestrator.agent import VoiceAgent
from orchestrator.factory import SessionInfo
from protocol.client import Client
from protocol.engine import EngineOptions, Service
from protocol.errors import RemoteError
from protocol.ingest import Metrics, Transcript
from services.engine import Final, SttEngine, SttStream
from tests.orchestrator.world import STT, World, event, speech, until

LOUD = 500  # of 16-bit samples, root mean square
PAUSE_BYTES = 16_000 * 2 * 3 // 10  # 300 ms


class Streaming(EngineOptions, frozen=True, kw_only=True):
    """An engine that finds speech by its loudness."""

    service: ClassVar[Service] = "stt"
    engine: ClassVar[str] = "streaming"

    text: str = "hello there"


class StreamingStream(SttStream):
    """Says the first word with the first sound, and all of it after 300 ms of silence."""

    def __init__(self, options: Streaming) -> None:
        self._text = options.text
        self._quiet = 0
        self._speaking = False

    async def push(self, pcm: bytes) -> str | Final | None:
        loud = bool(pcm) and float(np.sqrt(np.mean(np.frombuffer(pcm, "<i2").astype(float) ** 2))) > LOUD
        self._quiet = 0 if loud else self._quiet + len(pcm)
        if loud and not self._speaking:
            self._speaking = True
            return self._text.split()[0]
        if self._speaking and self._quiet >= PAUSE_BYTES:
            self._speaking = False
            return Final(self._text, 0.9)
        return None

    async def flush(self) -> tuple[str, float]:
        raise AssertionError("an engine that finds speech itself is never flushed")

    async def close(self) -> None:
        return None


class StreamingStt(SttEngine[Streaming]):
    """Its streams."""

    options_type = Streaming
    sample_rates = (16_000,)
    finds_speech = True

    async def open(self, options: Streaming, sample_rate: int) -> SttStream:
        return StreamingStream(options)


async def without_vad(session: SessionInfo) -> VoiceAgent:
    return VoiceAgent(instructions="You are Ann.", vad=None, stt=Streaming())


async def say(client: Client) -> Metrics:
    """A recorded utterance, and the figures of its turn."""
    await client.send_audio(speech())
    ended: Metrics = await event(client, lambda found: isinstance(found, Metrics))
    return ended


def test_two_turns_are_heard_and_answered_without_a_vad() -> None:
    async def conversation() -> None:
        async with World(without_vad) as world:
            world.start_node("stt", StreamingStt(), "stt-2")
            await until(lambda: sum(node.state == "ready" for node in world.hub.pool.nodes) == 5)
            async with await world.connect() as client:
                await client.send_audio(speech())
                heard = await event(client, lambda found: isinstance(found, Transcript) and found.final)
                assert (heard.speaker, heard.text) == ("user", "hello there")
                assert (await event(client, lambda found: isinstance(found, Metrics))).outcome == "completed"
                assert (await say(client)).outcome == "completed"
            await world.until_quiet()

    uvloop.run(conversation())


def test_its_node_may_be_lost_in_the_middle_of_what_is_said() -> None:
    async def conversation() -> None:
        async with World(without_vad) as world:
            world.start_node("stt", StreamingStt(), "stt-2")
            world.start_node("stt", StreamingStt(), "stt-3")
            await until(lambda: sum(node.state == "ready" for node in world.hub.pool.nodes) == 6)
            async with await world.connect() as client:
                await client.send_audio(speech(silence_s=0.0))
                await event(client, lambda found: isinstance(found, Transcript) and not found.final)
                session = world.hub.ingest.sessions[0]
                node = next(node for node in world.hub.pool.nodes if node.name == session.nodes["stt"])
                for one in list(node.streams.values()):
                    one.lose()
                await client.send_audio(bytes(32_000 * 2))
                heard = await event(client, lambda found: isinstance(found, Transcript) and found.final)
                assert heard.text == "hello there"

    uvloop.run(conversation())


def test_an_stt_that_does_not_stream_needs_a_vad_and_the_error_names_both_ways_out() -> None:
    async def factory(session: SessionInfo) -> VoiceAgent:
        return VoiceAgent(instructions="You are Ann.", vad=None, stt=STT())

    async def conversation() -> None:
        async with World(factory) as world:
            with pytest.raises(
                RemoteError, match=r"stt/scripted but no VAD.*vad=silero\.VAD\(\).*or an STT that streams"
            ):
                await world.connect()

    uvloop.run(conversation())
