"""One utterance, on its own: what was heard of it when it is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator

import pytest

from orchestrator.utterance import Utterance
from protocol.audio import AudioFormat, AudioFrame
from protocol.ingest import Audio, ToClient
from tests.support import run_async, wait_for

SAMPLES = 1_594  # 99.6 ms at 16 kHz: clients report whole milliseconds


async def words() -> AsyncIterator[str]:
    yield "Hello."


async def speak(text: AsyncIterable[str]) -> AsyncIterator[AudioFrame]:
    async for _ in text:
        yield AudioFrame(bytes(2 * SAMPLES), 16_000)


@pytest.mark.parametrize(("reported", "heard"), [(99, 99.625), (40, 40)])
def test_what_a_client_reports_in_whole_milliseconds_counts_as_all_of_it(reported: int, heard: float) -> None:
    sent: list[ToClient] = []
    utterance = Utterance(
        turn=1, generation=1, output=AudioFormat(), reports_played=True, send=sent.append, on_speaking=lambda: None
    )

    async def play() -> None:
        playing = asyncio.create_task(utterance.run(words(), speak))
        await wait_for(lambda: any(isinstance(one, Audio) and one.last for one in sent), what="the end of the audio")
        utterance.report_played(reported)
        if reported < 99:
            playing.cancel()  # it is interrupted
        await asyncio.wait({playing})
        utterance.close()

    run_async(play())
    assert utterance.played_ms() == pytest.approx(heard)
