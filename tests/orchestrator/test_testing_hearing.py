"""Simulated vad and stt, heard by the real `Hearing`, which is fed the shipped recordings in virtual time."""

from __future__ import annotations

import asyncio
import wave
from pathlib import Path

import numpy as np
import pytest

from orchestrator.ears import Ears
from orchestrator.hearing import PREROLL_MS, RETRY_S, Hearing
from orchestrator.testing.clock import virtual_time
from orchestrator.testing.nodes import SimulatedNodes
from protocol.errors import AntiphonError, NoNode
from protocol.limits import FRAME_MS
from tests.orchestrator.simulated import RATE, STT, VAD, silence

EXAMPLES = Path(__file__).parent.parent.parent / "examples" / "audio"


class Caller:
    """Speaks to a `Hearing`, does with its segments what the turn machine does, and writes down what it heard."""

    def __init__(self, nodes: SimulatedNodes, rate: int = RATE) -> None:
        self.nodes = nodes
        self.rate = rate
        self.speech: list[tuple[str, float, float]] = []
        self.transcripts: list[tuple[int, str, bool]] = []
        self.lost: list[AntiphonError] = []
        self.trouble: list[AntiphonError] = []
        self.credit_ms = 0
        self._segment = 0
        self._speaking = False
        self.hearing = Hearing(
            pool=nodes.pool,
            session="s",
            ears=Ears(VAD, STT),
            client_rate=rate,
            listener=self,
            clock=asyncio.get_running_loop().time,
        )
        self.hearing.start()

    async def say(self, pcm: bytes) -> None:
        """At the pace at which it is spoken."""
        size = self.rate * FRAME_MS // 1000 * 2
        for start in range(0, len(pcm), size):
            self.hearing.push(pcm[start : start + size])
            await asyncio.sleep(FRAME_MS / 1000)

    async def sweep(self, seconds: float) -> None:
        """What a session does, for so long. Whatever is to be tried again is due."""
        for _ in range(int(seconds / 0.05)):
            self.hearing.sweep(1e12)
            await asyncio.sleep(0.05)

    def on_speech(self, event: str, at_ms: float, silence_ms: float) -> None:
        self.speech.append((event, at_ms, silence_ms))
        if event == "start" and not self._speaking:  # a vad that is new may say it again
            self._speaking = True
            self._segment += 1
            self.hearing.start_segment(self._segment, at_ms)
        elif event == "end":
            self._speaking = False
            self.hearing.end_segment(self._segment, at_ms + silence_ms)

    def on_transcript(self, segment: int, text: str, final: bool) -> None:
        self.transcripts.append((segment, text, final))

    def on_segment_lost(self, segment: int, error: AntiphonError) -> None:
        self.lost.append(error)

    def on_credit(self, until_ms: int) -> None:
        self.credit_ms = until_ms

    def on_trouble(self, error: AntiphonError) -> None:
        self.trouble.append(error)

    def events(self, kind: str) -> list[tuple[float, float]]:
        return [(at_ms, silence_ms) for event, at_ms, silence_ms in self.speech if event == kind]


def recording(name: str) -> bytes:
    with wave.open(str(EXAMPLES / f"{name}.wav")) as file:
        pcm: bytes = file.readframes(file.getnframes())
    return pcm


def loud_bounds_ms(pcm: bytes) -> tuple[int, int]:
    """The first and the last window of 20 ms that is louder than the threshold: reckoned on its own."""
    windows = np.frombuffer(pcm[: len(pcm) // 640 * 640], dtype="<i2").astype(float).reshape(-1, 320)
    loud = np.flatnonzero(np.sqrt((windows**2).mean(axis=1)) >= 300)
    return int(loud[0]) * 20, int(loud[-1] + 1) * 20


@pytest.mark.parametrize(
    "name",
    ["01-slt-hello", "02-rms-help", "03-awb-time", "04-slt-hours", "05-rms-office", "06-awb-appointment"],
)
@virtual_time
async def test_a_recording_is_one_segment_at_its_place_with_its_transcript(name: str) -> None:
    nodes = SimulatedNodes()
    text = (EXAMPLES / f"{name}.txt").read_text().strip()
    nodes.stt.transcripts.append(text)
    caller = Caller(nodes)
    pcm = silence(0.5) + recording(name)
    first_ms, last_ms = loud_bounds_ms(pcm)
    await caller.say(pcm + silence(1))
    [(start_ms, _)], [(end_ms, silent_ms)] = caller.events("start"), caller.events("end")
    assert first_ms <= start_ms <= first_ms + 200  # a click before the speech is none
    assert (end_ms, silent_ms) == (last_ms, 260)
    assert caller.transcripts == [(1, " ".join(text.split()[:2]), False), (1, text, True)]
    [heard_ms] = nodes.stt.segments_ms
    assert heard_ms == pytest.approx(end_ms + silent_ms - (start_ms - PREROLL_MS), abs=1)
    caller.hearing.close()
    assert nodes.used == {}


@virtual_time
async def test_utterances_are_given_their_transcripts_in_order() -> None:
    nodes = SimulatedNodes()
    nodes.stt.transcripts.extend(["Hello.", "", "What time is it?"])
    caller = Caller(nodes)
    await caller.say((recording("03-awb-time") + silence(1)) * 3)
    finals = [one for one in caller.transcripts if one[2]]
    assert finals == [
        (1, "Hello.", True),
        (2, "", True),
        (3, "What time is it?", True),
    ]
    caller.hearing.close()


@virtual_time
async def test_a_client_of_another_rate_is_heard_as_well() -> None:
    nodes = SimulatedNodes()
    nodes.stt.transcripts.append("Hello.")
    caller = Caller(nodes, rate=8_000)
    pcm = recording("01-slt-hello") + silence(1)
    await caller.say(np.frombuffer(pcm, dtype="<i2")[::2].tobytes())
    assert len(caller.events("start")) == 1
    assert caller.transcripts[-1] == (1, "Hello.", True)
    caller.hearing.close()


@virtual_time
async def test_credit_follows_the_audio() -> None:
    nodes = SimulatedNodes()
    caller = Caller(nodes)
    await caller.say(silence(10))
    assert caller.credit_ms == 10_000
    assert caller.hearing.backlog_ms == 0
    caller.hearing.close()


@pytest.mark.parametrize("service", ["vad", "stt"])
@virtual_time
async def test_a_node_that_is_lost_in_the_middle_of_speech_costs_no_transcript(service: str) -> None:
    nodes = SimulatedNodes()
    nodes.stt.transcripts.append("Hello.")
    caller = Caller(nodes)
    pcm = recording("01-slt-hello")
    await caller.say(pcm[: len(pcm) // 2])
    nodes.lose("vad" if service == "vad" else "stt")
    await caller.say(pcm[len(pcm) // 2 :] + silence(1))
    assert caller.transcripts[-1] == (1, "Hello.", True)
    assert caller.hearing.nodes[service] == f"{service}-2"
    caller.hearing.close()
    assert nodes.used == {}


@virtual_time
async def test_a_service_that_cannot_be_opened_again_is_trouble_until_it_can() -> None:
    nodes = SimulatedNodes()
    caller = Caller(nodes)
    nodes.refuse("stt", NoNode("nobody"))
    nodes.lose("stt")
    assert [str(error) for error in caller.trouble] == ["nobody"]
    nodes.accept("stt")
    await caller.sweep(RETRY_S)
    assert caller.hearing.nodes["stt"] == "stt-2"
    caller.hearing.close()


@virtual_time
async def test_speech_without_a_transcript_is_an_error_that_says_what_to_do() -> None:
    nodes = SimulatedNodes()
    caller = Caller(nodes)
    await caller.say(recording("01-slt-hello") + silence(1))
    await caller.sweep(1)
    assert [error.code for error in caller.lost] == ["unscripted"]
    with pytest.raises(AntiphonError, match=r"ms of speech came .*transcripts\.append"):
        nodes.check()
    caller.hearing.close()


@virtual_time
async def test_a_node_that_drains_is_left() -> None:
    nodes = SimulatedNodes()
    caller = Caller(nodes)
    nodes.on_draining = caller.hearing.leave
    nodes.drain("vad")
    assert caller.hearing.nodes == {"vad": "vad-2", "stt": "stt-1"}
    assert nodes.used == {"vad": 1, "stt": 1}
    caller.hearing.close()
