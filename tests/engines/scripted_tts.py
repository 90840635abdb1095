"""A tts engine that makes as much sound as its options say: each sample is the number of its piece's first letter."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import ClassVar

import numpy as np

from protocol.audio import AudioFormat
from protocol.engine import Service
from protocol.node import Word
from services.engine import Sound, TtsEngine
from tests.engines import scripting
from tests.engines.scripting import Count, Script, Steps, record

CHUNK_MS = 40  # sound that is made in one step


class TTS(Script, frozen=True, kw_only=True):
    """`audio_ms`: length of each piece; `audio_ms_per_character` is added for each of its characters."""

    service: ClassVar[Service] = "tts"
    engine: ClassVar[str] = "scripted-tts"

    audio_ms: Count = 200
    audio_ms_per_character: Count = 0
    words: bool = True  # report when each word starts, evenly


class Engine(TtsEngine[TTS]):
    """Hums."""

    options_type = TTS
    sample_rates = (16_000,)

    async def load(self, slots: int) -> None:
        await scripting.load()

    async def check(self, options: TTS) -> None:
        await scripting.check(options)

    async def synthesize(self, options: TTS, text: str) -> AsyncIterator[Sound]:
        record("open")
        steps = Steps(options)
        length_ms = options.audio_ms + options.audio_ms_per_character * len(text)
        left = AudioFormat(self.sample_rates[0]).frame_bytes(length_ms)
        pcm = np.full(AudioFormat(self.sample_rates[0]).frame_bytes(CHUNK_MS) // 2, ord(text[0]), dtype="<i2").tobytes()
        try:
            if options.words:
                yield Sound(words=_words(text, length_ms))
            while left:
                await steps.step()
                part = pcm[:left]
                left -= len(part)
                yield Sound(part)
        finally:
            record("close")


def _words(text: str, length_ms: int) -> tuple[Word, ...]:
    offsets = [match.start() for match in re.finditer(r"\S+", text)]
    return tuple(Word(length_ms * index // len(offsets), offset) for index, offset in enumerate(offsets))
