"""The simulated TTS: how long it speaks, when, and under which credit."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.streams import StreamQueue
from orchestrator.testing.clock import virtual_time
from orchestrator.testing.nodes import SimulatedNodes
from protocol.errors import AntiphonError, TooLarge
from protocol.limits import MAX_PIECE_LENGTH, TTS_AHEAD_MS
from protocol.node import (
    Allow,
    AudioOut,
    ChatItem,
    FromNode,
    Generate,
    Speak,
    Words,
)
from tests.orchestrator.simulated import LLM, TTS, now, opened


async def speech(nodes: SimulatedNodes, *pieces: str) -> list[FromNode]:
    """What tts sends for these pieces, with credit for all of it."""
    with StreamQueue() as queue:
        stream = await opened(nodes, queue, TTS)
        stream.send(Allow(0, 0, 0, 3_600_000))
        for number, text in enumerate((*pieces, "")):
            stream.send(Speak(0, 0, 0, number, text, number == len(pieces)))
        return [message async for message in queue]


def audio_ms(messages: list[FromNode], piece: int) -> float:
    return sum(len(one.pcm) / 32 for one in messages if isinstance(one, AudioOut) and one.piece == piece)


@virtual_time
async def test_tts_speaks_so_many_milliseconds_for_each_character() -> None:
    messages = await speech(SimulatedNodes(), "Good morning. ", "How can I help?")
    assert audio_ms(messages, 0) == pytest.approx(14 * 60)
    assert audio_ms(messages, 1) == pytest.approx(15 * 60)
    frames = [message for message in messages if isinstance(message, AudioOut)]
    assert {len(frame.pcm) for frame in frames} == {640, 0}
    assert [frame.piece for frame in frames if frame.last] == [0, 1, 2]
    assert [message.sequence for message in messages] == list(range(1, len(messages) + 1))
    assert any(frames[0].pcm)


@virtual_time
async def test_tts_speaks_as_fast_as_it_is_told() -> None:
    nodes = SimulatedNodes()
    nodes.tts.speech_rate = 16
    assert audio_ms(await speech(nodes, "twelve chars"), 0) == pytest.approx(750)


@virtual_time
async def test_word_times_come_before_the_audio_of_their_piece() -> None:
    nodes = SimulatedNodes()
    messages = await speech(nodes, "Good morning, Ann.")
    words = messages[0]
    assert isinstance(words, Words)
    assert [(word.at_ms, word.offset) for word in words.words] == [(0, 0), (300, 5), (840, 14)]
    nodes.tts.word_times = False
    assert not [message for message in await speech(nodes, "Good morning.") if isinstance(message, Words)]


@virtual_time
async def test_a_piece_without_words_has_no_sound() -> None:
    nodes = SimulatedNodes()
    messages = await speech(nodes, " \n")
    assert [(type(message), getattr(message, "last", None)) for message in messages] == [(AudioOut, True)] * 2
    assert nodes.tts.spoken == []


@virtual_time
async def test_tts_sends_no_more_than_it_has_credit_for() -> None:
    nodes = SimulatedNodes()
    text = "word " * 20  # 6 s
    with StreamQueue() as queue:
        stream = await opened(nodes, queue, TTS)
        assert stream.sample_rate == 16_000
        stream.send(Speak(0, 0, 0, 0, text))
        stream.send(Speak(0, 0, 0, 1, "", True))
        got: list[FromNode] = []

        async def take(until_ms: int) -> None:
            while audio_ms(got, 0) < until_ms:
                got.append(await anext(queue))

        await take(TTS_AHEAD_MS)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await anext(queue)
        stream.send(Allow(0, 0, 0, 4_000))
        await take(4_000)
        stream.send(Allow(0, 0, 0, 10_000))
        got += [message async for message in queue]
    assert audio_ms(got, 0) == pytest.approx(6_000)
    assert nodes.tts.spoken == [text]


@virtual_time
async def test_tts_takes_the_time_that_it_is_told() -> None:
    nodes = SimulatedNodes(sample_rate=8_000)
    nodes.tts.first_audio_s = 0.2
    with StreamQueue() as queue:
        stream = await opened(nodes, queue, TTS)
        assert stream.sample_rate == 8_000
        began = now()
        stream.send(Speak(0, 0, 0, 0, "Hello.", True))
        assert isinstance(await anext(queue), Words)
        assert now() - began == pytest.approx(0.2)


@virtual_time
async def test_the_limits_of_the_wire_hold() -> None:
    nodes = SimulatedNodes()
    with StreamQueue() as queue:
        stream = await opened(nodes, queue, TTS)
        stream.send(Speak(0, 0, 0, 0, "x" * (MAX_PIECE_LENGTH + 1), True))
        await asyncio.sleep(1)
        with pytest.raises(AntiphonError, match="text"):
            nodes.check()
        stream = await opened(nodes, queue, LLM)
        with pytest.raises(TooLarge):
            stream.send(Generate(0, 0, 0, [ChatItem("user", "x" * 5_000_000)]))
