"""eSpeak NG: the engine of tts nodes that needs no model and no network. `espeak.TTS(…)` is what users write.

A formant synthesiser: it sounds like a machine, speaks over a hundred languages, and makes speech a thousand times
faster than it is spoken. This room brings its audio from the thread where the library runs to the streams; the library
itself is behind `espeak_library.py`.

Licence: eSpeak NG is under the GPL, version 3 or later, and is no part of Antiphon (Apache-2.0). It is in the separate
package `espeakng-loader`, which is loaded when a node of this engine starts and by nothing else.
"""

from __future__ import annotations

import asyncio
import bisect
import re
import unicodedata
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, ClassVar

from msgspec import Meta

from protocol.engine import EngineOptions, Service
from protocol.errors import EngineError, EngineUnavailable
from protocol.node import Word
from services.engine import Sound, TtsEngine
from services.tts.espeak_library import Library, Manner, WordEvent, open_library

SAMPLE_RATE = 22_050  # Hz; what the library makes whatever the voice

# Control characters hold commands of the library ("\x0150P": pitch 50), and private characters are folded onto them;
# surrogates and what is not assigned have no sound.
_UNSPEAKABLE = frozenset(("Cc", "Co", "Cs", "Cn"))
_TOKEN = re.compile(r"\S+")


class TTS(EngineOptions, frozen=True, kw_only=True):
    """How eSpeak NG speaks.

    - `voice`: a language (`en-us`, `de`), alone or with a variant after a plus (`en-us+f5`). A wrong one is answered
      with those that there are. The default is the one that pocketsphinx understands best as the stt node runs it
      (benchmarks/engines.py, 30 sentences: a word error rate of 31 %; `f5` 46 %, `f2` 55 %, no variant 72 %).
    - `rate`: words a minute, the library's own default and bounds.
    - `pitch`: 0 to 100, 50 is the voice's own.
    - `volume`: per cent of the loudness at which the voice was made. The default voice clips at 100.
    - `word_gap_ms`: silence added between words, in steps of 10 ms at the default rate.
    """

    service: ClassVar[Service] = "tts"
    engine: ClassVar[str] = "espeak"

    voice: Annotated[str, Meta(min_length=1, max_length=64)] = "en-us+klatt4"
    rate: Annotated[int, Meta(ge=80, le=450)] = 175
    pitch: Annotated[int, Meta(ge=0, le=100)] = 50
    volume: Annotated[int, Meta(ge=0, le=100)] = 80
    word_gap_ms: Annotated[int, Meta(ge=0, le=500, multiple_of=10)] = 0


class Engine(TtsEngine[TTS]):
    """The library in a thread of its own: pieces wait for one another there, and never for who listens to them."""

    options_type = TTS
    sample_rates = (SAMPLE_RATE,)
    # 100 streams that speak all the time take 11 % of a core, at 1.1 ms for a second of speech (its thread and the
    # hand-over to the loop); the rest is for moving their 5,000 frames a second.
    default_slots = 100

    def __init__(self) -> None:
        self._library: Library | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._pieces: set[_Piece] = set()

    async def load(self, slots: int) -> None:
        """Load the library and speak once: 16 ms. Raises `EngineUnavailable` if it is missing."""
        self._thread = ThreadPoolExecutor(1, "espeak")
        try:
            self._library = await asyncio.get_running_loop().run_in_executor(self._thread, open_library)
            if self._library.sample_rate != SAMPLE_RATE:
                raise EngineUnavailable(
                    f"eSpeak NG makes audio at {self._library.sample_rate} Hz; this engine knows the versions that "
                    f"make {SAMPLE_RATE} Hz: pip install --force-reinstall espeakng-loader"
                )
            async for _ in self.synthesize(TTS(), "ready"):
                pass
        except BaseException:
            await self.close()
            raise

    async def check(self, options: TTS) -> None:
        """Raise `OptionError` for a voice that the library does not have."""
        library, thread = self._ready()
        identifier = _identifier(library, options)
        if not await asyncio.get_running_loop().run_in_executor(thread, library.try_voice, identifier):
            raise options.reject("voice", "the library lists this voice, but cannot load it")

    async def synthesize(self, options: TTS, text: str) -> AsyncIterator[Sound]:
        """Stream the audio of one piece and the times of its words, as fast as it is made.

        All of a piece may wait here for its consumer: 0.3 MB for a long sentence, 10 MB for a thousand characters
        ("1 1 1 …") at the lowest rate, 37 MB with the longest gaps too. That took 0.3 s; other pieces wait for so long.
        Cancelling or closing stops the library within `CHUNK_MS` of audio, which is a fraction of a millisecond.
        Raises `EngineError`. A text without anything to say gives no audio.
        """
        library, thread = self._ready()
        manner = _manner(library, options)
        loop = asyncio.get_running_loop()
        piece = _Piece(loop, text)
        self._pieces.add(piece)
        job = loop.run_in_executor(thread, library.speak, _plain(text), manner, piece.take)
        job.add_done_callback(piece.end)
        try:
            while (sound := await piece.sounds.get()) is not None:
                yield sound
            await job
        finally:
            piece.stopped = True
            job.cancel()  # if the library has not begun with it, it will not
            self._pieces.discard(piece)

    async def close(self) -> None:
        """Stop what is being spoken and end the thread; blocks for a chunk that is just being made."""
        for piece in self._pieces:
            piece.stopped = True
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
            self._thread = None

    def _ready(self) -> tuple[Library, ThreadPoolExecutor]:
        if self._library is None or self._thread is None:
            raise EngineError("espeak was asked before it was loaded", category="fatal")
        return self._library, self._thread


class _Piece:
    """One piece on its way from the library's thread to the loop's."""

    def __init__(self, loop: asyncio.AbstractEventLoop, text: str) -> None:
        self.sounds: asyncio.Queue[Sound | None] = asyncio.Queue()  # None: all has come
        self.stopped = False
        self._loop = loop
        self._tokens = [token.start() for token in _TOKEN.finditer(text)]
        self._reached = -1  # offset of the last word that was given
        self._held: list[bytes] = []  # silence before the first word: only worth sending if a word follows

    def take(self, pcm: bytes, events: list[WordEvent]) -> bool:
        """A chunk from the library, in its thread. False: make no more."""
        if self.stopped:
            return False
        words = self._words(events)
        self._held.append(pcm)
        if self._reached >= 0:
            sound = Sound(b"".join(self._held), words)
            self._held.clear()
            self._loop.call_soon_threadsafe(self.sounds.put_nowait, sound)
        return True

    def end(self, _: asyncio.Future[None]) -> None:
        """The library has finished, in the loop's thread."""
        self.sounds.put_nowait(None)

    def _words(self, events: list[WordEvent]) -> tuple[Word, ...]:
        """The words that begin: one for each run without spaces, where the library may see several ("1,234", "€5")."""
        words = []
        for at_ms, offset in events:
            start = self._tokens[max(bisect.bisect_right(self._tokens, offset) - 1, 0)] if self._tokens else 0
            if start > self._reached:
                self._reached = start
                words.append(Word(at_ms, start))
        return tuple(words)


def _plain(text: str) -> str:
    """The text with a space for each character that the library would take for more than text, at the same offsets."""
    if text.isprintable():
        return text
    return "".join(" " if unicodedata.category(character) in _UNSPEAKABLE else character for character in text)


def _manner(library: Library, options: TTS) -> Manner:
    voice = _identifier(library, options)
    return Manner(voice, options.rate, options.pitch, options.volume, options.word_gap_ms)


def _identifier(library: Library, options: TTS) -> str:
    """The library's name of the voice. Only listed ones: it would open any file whose path it were given."""
    language, plus, variant = options.voice.partition("+")
    if language not in library.languages:
        raise options.reject("voice", f"allowed are {', '.join(library.languages)}, each with or without +variant")
    if plus and variant not in library.variants:
        allowed = ", ".join(sorted(library.variants, key=str.lower))
        raise options.reject("voice", f"allowed after {language}+ are {allowed}")
    return f"{library.languages[language]}{plus}{variant}"
