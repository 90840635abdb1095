"""An stt engine that hears what its options say, or how much sound there was."""

from __future__ import annotations

from typing import ClassVar

from protocol.audio import AudioFormat
from protocol.engine import Service
from services.engine import SttEngine, SttStream
from tests.engines import scripting
from tests.engines.scripting import Count, Script, Steps, record


class STT(Script, frozen=True, kw_only=True):
    """`transcripts`: one for each segment, then from the beginning. Without any: "heard 340 ms"."""

    service: ClassVar[Service] = "stt"
    engine: ClassVar[str] = "scripted-stt"

    transcripts: tuple[str, ...] = ()
    partial_ms: Count = 0  # after each so many milliseconds of sound, one more word is in the partial; 0: no partials


class Stream(SttStream):
    """One conversation. A push is a step."""

    def __init__(self, options: STT, sample_rate: int) -> None:
        self._options = options
        self._steps = Steps(options)
        self._audio = AudioFormat(sample_rate)
        self._segments = 0
        self._heard_ms = 0.0
        self._words = 0
        record("open")

    async def push(self, pcm: bytes) -> str | None:
        await self._steps.step()
        self._heard_ms += self._audio.duration_ms(len(pcm))
        words = self._transcript().split()
        known = int(self._heard_ms // self._options.partial_ms) if self._options.partial_ms else 0
        if min(known, len(words)) <= self._words:
            return None
        self._words = min(known, len(words))
        return " ".join(words[: self._words])

    async def flush(self) -> tuple[str, float]:
        transcript = self._transcript()
        self._segments += 1
        self._heard_ms, self._words = 0.0, 0
        return transcript, 1.0

    async def close(self) -> None:
        record("close")

    def _transcript(self) -> str:
        told = self._options.transcripts
        return told[self._segments % len(told)] if told else f"heard {self._heard_ms:.0f} ms"


class Engine(SttEngine[STT]):
    """Recognises nothing."""

    options_type = STT
    sample_rates = (16_000, 8_000)

    async def load(self, slots: int) -> None:
        await scripting.load()

    async def check(self, options: STT) -> None:
        await scripting.check(options)

    async def open(self, options: STT, sample_rate: int) -> SttStream:
        return Stream(options, sample_rate)
