"""Simulated vad and stt: what they say of the audio that a stream of theirs is sent."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.streams import StreamQueue
from orchestrator.testing.clock import virtual_time
from orchestrator.testing.nodes import SimulatedNodes
from protocol.errors import AntiphonError, EngineError
from protocol.limits import NODE_AHEAD_MS
from protocol.node import (
    AudioIn,
    Flush,
    Speech,
    Taken,
    TranscriptOut,
)
from tests.orchestrator.simulated import RATE, STT, VAD, noise, opened, silence


async def judged(nodes: SimulatedNodes, pcm: bytes, frame_ms: int = 20) -> list[tuple[str, int, int]]:
    """What a vad stream says of this audio."""
    events: list[tuple[str, int, int]] = []
    with StreamQueue() as queue:
        stream = await opened(nodes, queue, VAD, sample_rate=RATE)
        size = RATE * frame_ms // 1000 * 2
        for start in range(0, len(pcm), size):
            stream.send(AudioIn(0, 0, 0, pcm[start : start + size]))
        while True:
            try:
                async with asyncio.timeout(1):
                    message = await anext(queue)
            except TimeoutError:
                return events
            if isinstance(message, Speech):
                events.append((message.event, message.at_ms, message.silence_ms))


@virtual_time
async def test_speech_starts_and_ends_where_it_is_loud() -> None:
    events = await judged(SimulatedNodes(), silence(1) + noise(1, 400) + silence(0.3))
    assert events == [("start", 1_000, 0), ("end", 2_000, 260), ("silence", 2_000, 280), ("silence", 2_000, 300)]


@virtual_time
async def test_the_size_of_the_frames_changes_nothing() -> None:
    pcm = silence(1) + noise(1, 400) + silence(0.3)
    expected = await judged(SimulatedNodes(), pcm)
    for frame_ms in (7, 50, 200):
        assert await judged(SimulatedNodes(), pcm, frame_ms) == expected


@virtual_time
async def test_what_is_quiet_or_short_is_no_speech() -> None:
    assert await judged(SimulatedNodes(), silence(1) + noise(1, 299) + silence(1)) == []
    assert await judged(SimulatedNodes(), silence(1) + noise(0.06, 3_000) + silence(1)) == []


@virtual_time
async def test_a_short_pause_does_not_end_speech() -> None:
    events = await judged(SimulatedNodes(), noise(1, 400) + silence(0.24) + noise(1, 400) + silence(0.26))
    assert events == [("start", 0, 0), ("end", 2_240, 260)]


@virtual_time
async def test_silence_is_reported_for_a_while() -> None:
    events = await judged(SimulatedNodes(), noise(1, 400) + silence(10))
    assert events[-1] == ("silence", 1_000, 3_000)


@virtual_time
async def test_the_thresholds_can_be_set() -> None:
    nodes = SimulatedNodes()
    nodes.vad.threshold_rms, nodes.vad.min_speech_ms = 50, 20
    nodes.vad.min_silence_ms, nodes.vad.report_silence_ms = 100, 0
    assert await judged(nodes, silence(1) + noise(0.02, 60) + silence(1)) == [("start", 1_000, 0), ("end", 1_020, 100)]


# --- stt --------------------------------------------------------------------------------------------------------------


@virtual_time
async def test_a_final_takes_its_time_and_the_next_segment_waits_for_it() -> None:
    nodes = SimulatedNodes()
    nodes.stt.final_s = 0.5
    nodes.stt.transcripts.extend(["one two three", "four"])
    loop = asyncio.get_running_loop()
    began = loop.time()
    with StreamQueue() as queue:
        stream = await opened(nodes, queue, STT, sample_rate=RATE)
        for segment in (1, 2):
            stream.send(AudioIn(0, 0, 0, silence(0.2)))
            stream.send(AudioIn(0, 0, 0, silence(0.1 * segment)))
            stream.send(Flush(0, 0, 0, segment))
        seen: list[tuple[float, int, str, bool]] = []
        credit_ms = 0
        while len(seen) < 4:
            message = await anext(queue)
            if isinstance(message, TranscriptOut):
                seen.append((round(loop.time() - began, 3), message.segment, message.text, message.final))
            elif isinstance(message, Taken):
                credit_ms = message.until_ms
    assert seen == [
        (0.0, 1, "one two", False),
        (0.5, 1, "one two three", True),
        (0.5, 2, "four", False),
        (1.0, 2, "four", True),
    ]
    assert nodes.stt.segments_ms == [300, 400]
    assert credit_ms == NODE_AHEAD_MS + 500


@virtual_time
async def test_a_node_that_is_lost_before_the_final_takes_no_transcript_with_it() -> None:
    nodes = SimulatedNodes()
    nodes.stt.final_s = 0.5
    nodes.stt.transcripts.append("one two three")
    with StreamQueue() as queue:
        stream = await opened(nodes, queue, STT, sample_rate=RATE)
        stream.send(Flush(0, 0, 0, 1))
        await asyncio.sleep(0.4)
        nodes.lose("stt")
        await asyncio.sleep(1)
    assert list(nodes.stt.transcripts) == ["one two three"]


@virtual_time
async def test_an_error_in_place_of_a_transcript_fails_the_stream() -> None:
    nodes = SimulatedNodes()
    nodes.stt.transcripts.append(EngineError("the recogniser is broken"))
    with StreamQueue() as queue:
        stream = await opened(nodes, queue, STT, sample_rate=RATE)
        stream.send(Flush(0, 0, 0, 1))
        assert isinstance(await anext(queue), Taken)
        with pytest.raises(AntiphonError, match="the recogniser is broken"):
            await anext(queue)
    nodes.check()
