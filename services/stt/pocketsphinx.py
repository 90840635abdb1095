"""pocketsphinx: the engine of stt nodes. `pocketsphinx.STT(…)` is what users write.

It runs on the CPU and brings its English model (US) in its wheel. It is a good engine for a domain's grammar and for
clear, simple sentences; it is no dictation.

pocketsphinx 5.1.1 holds the GIL while it decodes: a thread beside a `process_raw` of 10 s of audio stood still for
all of its 0.81 s. So decoders live in processes (`pocketsphinx_worker.py`), lent by a pool (`pocketsphinx_pool.py`)
for one utterance each. This room holds the options and the streams.
"""

from __future__ import annotations

import logging
import os
import re
from typing import Annotated, ClassVar

from msgspec import Meta

from protocol.engine import EngineOptions, Service
from protocol.errors import EngineError
from services.engine import SttEngine, SttStream
from services.stt.pocketsphinx_messages import Begin, Check, Finish, Listen, Search
from services.stt.pocketsphinx_pool import Pool, Worker

log = logging.getLogger(__name__)

BYTES_PER_SECOND = 32_000  # 16 kHz, 16 bit
STEP_BYTES = BYTES_PER_SECOND // 10  # audio that goes to a decoder at once, at least; partials are this late
MAX_STEP_BYTES = BYTES_PER_SECOND  # and at most: a process looks at its pipe after each, and ends with its node
# An utterance takes 0.08 of a core, 0.12 in noise: six leave room for the other nodes, and ten would fall behind.
DECODERS_PER_CORE = 6
WARM_DECODERS = 2  # loaded before the node is ready; each takes 110 MB
DEFAULT_THRESHOLD = 1e-20
MAX_REMEMBERED = 256  # searches that are known to be right

PHONES = "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH"
WORD = re.compile(r"[^\s()<>\[\]/\"]+")
IMPORT = re.compile(r"^\s*import\b", re.MULTILINE)

Threshold = Annotated[float, Meta(gt=0, le=1)]


class STT(EngineOptions, frozen=True, kw_only=True):
    """pocketsphinx STT. With neither grammar nor keywords, it listens for English at large.

    grammar: the text of a JSGF grammar (`#JSGF V1.0; grammar pizza; public <order> = …;`); its first public rule is
        listened for, and words are in lower case. A grammar finds a sentence of its own in whatever is said, and the
        confidence only compares its sentences with one another.
    keywords: phrases to spot in speech, each a string or a pair of phrase and threshold, from 1e-50 (finds all, and
        more) to 1 (misses most); 1e-20 if not given. The transcript holds what was found, in order.
    words: pronunciations of words that the dictionary lacks, in ARPABET: `{"margherita": "M AA R G ER IY T AH"}`.
        Those of a word that it has are added to it. A decoder that had others takes 0.3 s to learn them.
    """

    service: ClassVar[Service] = "stt"
    engine: ClassVar[str] = "pocketsphinx"

    grammar: Annotated[str, Meta(max_length=100_000)] | None = None
    keywords: Annotated[tuple[str | tuple[str, Threshold], ...], Meta(max_length=1_000)] = ()
    words: Annotated[dict[str, str], Meta(max_length=10_000)] | None = None

    def check(self) -> None:
        if self.grammar is not None:
            if self.keywords:
                raise self.reject("keywords", "allowed is a grammar or keywords, not both")
            if not self.grammar.lstrip("\ufeff \t\r\n").startswith("#JSGF"):
                raise self.reject("grammar", "a JSGF grammar starts with '#JSGF V1.0;'")
            if IMPORT.search(self.grammar) or "\0" in self.grammar:
                raise self.reject("grammar", "allowed is a whole grammar: no import, no zero byte")
        for phrase, threshold in self._keywords():
            if not phrase.split() or not all(map(WORD.fullmatch, phrase.split())):
                raise self.reject("keywords", f"allowed are phrases of words, and {phrase!r} is none")
            if threshold < 1e-50:
                raise self.reject("keywords", f"the threshold of {phrase!r} must be from 1e-50 to 1")
        for word, phones in (self.words or {}).items():
            if not WORD.fullmatch(word):
                raise self.reject("words", f"{word!r} is not one word")
            if not phones.split() or not set(phones.split()) <= set(PHONES.split()):
                raise self.reject("words", f"the phones of {word!r} must be of {PHONES}")

    def search(self) -> Search:
        """What a decoder is to listen for."""
        words = tuple(sorted((word, " ".join(phones.split())) for word, phones in (self.words or {}).items()))
        return Search(self.grammar or "", self._keywords(), words)

    def _keywords(self) -> tuple[tuple[str, float], ...]:
        pairs = ((item, DEFAULT_THRESHOLD) if isinstance(item, str) else item for item in self.keywords)
        return tuple((" ".join(phrase.split()), threshold) for phrase, threshold in pairs)


class PocketsphinxStream(SttStream):
    """One conversation: holds a decoder from the first audio of a segment until its final transcript."""

    def __init__(self, pool: Pool, search: Search) -> None:
        self._pool = pool
        self._search = search
        self._worker: Worker | None = None
        self._audio = bytearray()  # not yet decoded
        self._partial = ""
        self._cepstral_mean = ""  # of this caller's line, from one segment to the next

    async def push(self, pcm: bytes) -> str | None:
        """Take audio; returns the transcript so far when it changed. Waits for a decoder and for its work.

        Raises a retryable `EngineError` if the decoder's process died. Safe to cancel, then `close`.
        """
        self._audio += pcm
        if len(self._audio) < STEP_BYTES:
            return None
        try:
            text = await self._decode()
        except EngineError:
            await self.close()  # a new segment gets a new decoder
            raise
        if text == self._partial:
            return None
        self._partial = text
        return text

    async def flush(self) -> tuple[str, float]:
        """The final transcript, and the geometric mean of its words' posterior probabilities.

        Of the six examples, clean and in noise, right transcripts had 0.47 to 0.99 and wrong ones 0.01 to 0.75.
        Raises and cancels as `push`.
        """
        if self._worker is None and not self._audio:
            return "", 1.0
        try:
            if len(self._audio) > MAX_STEP_BYTES:
                await self._decode()
            worker = await self._decoder()
            reply = await worker.ask(Finish(0, self._take_audio(len(self._audio))))
        finally:
            await self.close()
        self._cepstral_mean = reply.cepstral_mean
        return reply.text, reply.confidence

    async def close(self) -> None:
        """Give the decoder back, and forget the segment. Does not wait; safe to repeat."""
        worker, self._worker = self._worker, None
        self._audio.clear()
        self._partial = ""
        if worker is not None:
            self._pool.take_back(worker)

    async def _decode(self) -> str:
        """Decode what has been collected; returns the transcript so far."""
        worker = await self._decoder()
        text = self._partial
        while len(self._audio) >= 2:
            text = (await worker.ask(Listen(0, self._take_audio(MAX_STEP_BYTES)))).text
        return text

    async def _decoder(self) -> Worker:
        if self._worker is None:
            self._worker = await self._pool.lend(self._search)
            self._worker.search = self._search
            await self._worker.ask(Begin(0, self._search, self._cepstral_mean))
        return self._worker

    def _take_audio(self, limit: int) -> bytes:
        """The next whole samples; half a sample waits for its other half."""
        length = min(len(self._audio), limit) // 2 * 2
        taken = bytes(self._audio[:length])
        del self._audio[:length]
        return taken


class Engine(SttEngine[STT]):
    """Decoders in processes of their own, as many as utterances are running."""

    options_type = STT
    sample_rates = (16_000,)  # the bundled model is for 16 kHz
    # Silence costs nothing. All twelve speaking at once take a core, and a caller speaks less than half of the time.
    default_slots = 12

    def __init__(self, decoders: int | None = None) -> None:
        """`decoders`: at most so many utterances at once; by default `DECODERS_PER_CORE`, and no more than slots."""
        self._limit = decoders
        self._pool: Pool | None = None
        self._checkers: Pool | None = None
        self._right: dict[Search, None] = {}  # what has been checked, oldest first

    @property
    def pids(self) -> list[int]:
        """Of the processes that decode, idle ones first."""
        return [worker.pid for worker in self._pool.workers] if self._pool is not None else []

    async def load(self, slots: int) -> None:
        """Load the first decoders: 0.4 s. Raises `EngineUnavailable` if pocketsphinx or its model is missing."""
        cores = len(os.sched_getaffinity(0))
        limit = self._limit or max(1, min(slots, DECODERS_PER_CORE * cores))
        self._pool = Pool("recognise", limit)
        self._checkers = Pool("check", 1)
        await self._pool.warm(min(WARM_DECODERS, limit))

    async def check(self, options: STT) -> None:
        """Raise `OptionError` for a grammar that cannot be read and for words that nobody can pronounce.

        The process that knows is started when it is first asked (0.2 s, 45 MB); grammars are not run in this one.
        """
        search = options.search()
        if search == Search(words=search.words) or search in self._right:
            return
        checkers = _loaded(self._checkers)
        worker = await checkers.lend(search)
        try:
            reply = await worker.ask(Check(0, search))
        finally:
            checkers.take_back(worker)
        if reply.error:
            raise options.reject(reply.option, reply.error)
        self._right[search] = None
        if len(self._right) > MAX_REMEMBERED:
            del self._right[next(iter(self._right))]

    async def open(self, options: STT, sample_rate: int) -> PocketsphinxStream:
        """A new stream. It takes a decoder when there is something to hear."""
        return PocketsphinxStream(_loaded(self._pool), options.search())

    async def close(self) -> None:
        """End all processes."""
        for pool in (self._pool, self._checkers):
            if pool is not None:
                await pool.close()


def _loaded(pool: Pool | None) -> Pool:
    if pool is None:
        raise EngineError("pocketsphinx was asked before it was loaded", category="fatal")
    return pool
