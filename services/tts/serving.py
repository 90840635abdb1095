"""How tts streams meet a tts engine: pieces of text in order, 20 ms frames out, held back under credit."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any, cast

from protocol.audio import AudioFormat
from protocol.limits import TTS_AHEAD_MS
from protocol.node import Allow, AudioOut, OpenStream, Speak, ToNode, Words
from services.engine import TtsEngine
from services.runtime.stream import Serving, Stream, TaskWork, Work


class TtsServing(Serving):
    """All tts streams of this node."""

    takes = (Speak, Allow)

    def __init__(self, engine: TtsEngine[Any]) -> None:
        self._engine = engine

    async def accept(self, stream: Stream, options: Any, opening: OpenStream) -> Work:
        return TtsWork(stream, self._engine, options)

    def sample_rate(self, options: Any) -> int:
        return self._engine.sample_rate(options)


class TtsWork(TaskWork):
    """One reply's speech."""

    def __init__(self, stream: Stream, engine: TtsEngine[Any], options: Any) -> None:
        self._engine = engine
        self._options = options
        self._audio = AudioFormat(engine.sample_rate(options))
        self._frame = self._audio.frame_bytes()
        self._sent = 0  # bytes
        self._allowed = self._bytes(TTS_AHEAD_MS)
        self._credit = asyncio.Event()
        super().__init__(stream)

    def take(self, message: ToNode) -> None:
        if isinstance(message, Allow):  # never behind the pieces that wait
            self._allowed = max(self._allowed, self._bytes(message.until_ms))
            self._credit.set()
        else:
            super().take(message)

    async def run(self) -> None:
        last = False
        while not last:
            message = cast(Speak, await self.next_message())
            await self._speak(message)
            last = message.last
        self.stream.done()

    async def _speak(self, message: Speak) -> None:
        pending = bytearray()
        if message.text.strip():
            sounds = self._engine.synthesize(self._options, message.text)
            async with aclosing(cast(Any, sounds)):
                async for sound in sounds:
                    if sound.words:
                        await self.stream.deliver(Words(0, 0, 0, message.piece, list(sound.words)))
                    pending += sound.pcm
                    while len(pending) >= self._frame:
                        await self._send(message.piece, bytes(pending[: self._frame]))
                        del pending[: self._frame]
        await self._send(message.piece, bytes(pending), last=True)

    async def _send(self, piece: int, pcm: bytes, *, last: bool = False) -> None:
        while pcm and self._sent >= self._allowed:  # the end of a piece needs no credit
            self._credit.clear()
            await self._credit.wait()
        self._sent += len(pcm)
        await self.stream.deliver(AudioOut(0, 0, 0, piece, pcm, last))

    def _bytes(self, duration_ms: int) -> int:
        return self._audio.sample_rate * 2 * duration_ms // 1000
