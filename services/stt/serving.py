"""How stt streams meet an stt engine: audio and flushes in order, partials as they change, one final a segment."""

from __future__ import annotations

from typing import Any

from protocol.audio import AudioFormat
from protocol.limits import NODE_AHEAD_MS
from protocol.node import AudioIn, Flush, OpenStream, Taken, TranscriptOut
from services.engine import Final, SttEngine, SttStream
from services.runtime.stream import Serving, Stream, TaskWork, Work, sample_rate_of

CREDIT_STEP_MS = 500  # how often credit is renewed, in audio time


class SttServing(Serving):
    """All stt streams of this node."""

    takes = (AudioIn, Flush)

    def __init__(self, engine: SttEngine[Any]) -> None:
        self._engine = engine

    async def accept(self, stream: Stream, options: Any, opening: OpenStream) -> Work:
        rate = sample_rate_of(self._engine, opening.sample_rate)
        return SttWork(stream, await self._engine.open(options, rate), AudioFormat(rate))


class SttWork(TaskWork):
    """One stt stream. Segments count from 1, as the flushes that end them."""

    def __init__(self, stream: Stream, recogniser: SttStream, audio: AudioFormat) -> None:
        self._recogniser = recogniser
        self._audio = audio
        self._segment = 1
        self._taken_ms = 0.0
        self._credited_ms = 0.0
        super().__init__(stream)

    async def run(self) -> None:
        self._credit()
        while True:
            message = await self.next_message()
            if isinstance(message, AudioIn):
                await self._push(message.pcm)
            elif isinstance(message, Flush):
                text, confidence = await self._recogniser.flush()
                self.stream.send(TranscriptOut(0, 0, 0, message.segment, text, True, confidence))
                self._segment = message.segment + 1

    async def release(self) -> None:
        await self._recogniser.close()

    async def _push(self, pcm: bytes) -> None:
        heard = await self._recogniser.push(pcm)
        if isinstance(heard, Final):
            self.stream.send(TranscriptOut(0, 0, 0, self._segment, heard.text, True, heard.confidence))
            self._segment += 1
        elif heard is not None:
            self.stream.send(TranscriptOut(0, 0, 0, self._segment, heard, False))
        self._taken_ms += self._audio.duration_ms(len(pcm))
        if self._taken_ms - self._credited_ms >= CREDIT_STEP_MS:
            self._credit()

    def _credit(self) -> None:
        self._credited_ms = self._taken_ms
        self.stream.send(Taken(0, 0, 0, int(self._taken_ms) + NODE_AHEAD_MS))
