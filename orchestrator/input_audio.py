"""The caller's audio: kept once in the session, resampled once, and fed to vad and stt under their credit.

Sans I/O: a feed is given a `send` function. Positions are milliseconds of the session's audio since its first sample.
What has been fed is kept for a while (pre-roll, and the running segment), so that a segment can start before its
speech was noticed, and a node that is lost can be replaced by one that is fed the same audio again.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import soxr

from protocol.audio import SAMPLE_BYTES
from protocol.limits import MAX_FRAME_MS, NODE_AHEAD_MS

# Of audio before every cursor: what vad has been sent and has not judged yet, the speech that it must hear before it
# says so, and the pre-roll.
KEPT_MS = NODE_AHEAD_MS + 1_000
MAX_KEPT_MS = 60_000  # of a segment that never ends
TRIM_STEP_MS = 1_000


class InputAudio:
    """A growing run of 16-bit samples at `sample_rate` Hz, made from frames at `client_rate` Hz."""

    def __init__(self, client_rate: int, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self._bytes_per_ms = sample_rate * SAMPLE_BYTES / 1000
        self._resampler = (
            soxr.ResampleStream(client_rate, sample_rate, 1, dtype="int16", quality="HQ")
            if client_rate != sample_rate
            else None
        )
        self._kept = bytearray()
        self._start = 0  # position in bytes of the first kept byte
        self._feeds: list[Feed] = []

    @property
    def end(self) -> int:
        """Bytes that have come so far."""
        return self._start + len(self._kept)

    @property
    def end_ms(self) -> float:
        """Milliseconds that have come so far."""
        return self.end / self._bytes_per_ms

    def feed(self, send: Callable[[bytes], None]) -> Feed:
        """A reader of this audio, which starts at its end."""
        feed = Feed(self, send)
        self._feeds.append(feed)
        return feed

    def push(self, pcm: bytes) -> None:
        """Append a frame of the client and hand it on to every feed that may have it."""
        if self._resampler is not None:
            pcm = self._resampler.resample_chunk(np.frombuffer(pcm, dtype="<i2")).tobytes()
            if not pcm:
                return
        self._kept += pcm
        for feed in self._feeds:
            feed.pump()
        if len(self._kept) > self.position(KEPT_MS + TRIM_STEP_MS):
            self._trim()

    def read(self, start: int, end: int) -> bytes:
        """The kept bytes from `start` to `end`."""
        return bytes(self._kept[start - self._start : end - self._start])

    def position(self, at_ms: float) -> int:
        """The byte at `at_ms`, at a whole sample."""
        return int(at_ms * self.sample_rate / 1000) * SAMPLE_BYTES

    def clamp(self, position: int) -> int:
        """The nearest position that is still kept."""
        return min(max(position, self._start), self.end)

    def _trim(self) -> None:
        needed = min((feed.needed for feed in self._feeds), default=self.end) - self.position(KEPT_MS)
        needed = max(needed, self.end - self.position(MAX_KEPT_MS))
        if needed > self._start:
            del self._kept[: needed - self._start]
            self._start = needed
            for feed in self._feeds:
                feed.skip_to(needed)


class Feed:
    """What one stream has been sent of the audio. Sends nothing until it is `attach`ed.

    `until` is how far it may go: the credit of its stream, and for a segment the position where it ends.
    """

    def __init__(self, audio: InputAudio, send: Callable[[bytes], None]) -> None:
        self._audio = audio
        self._send = send
        self._on_end: Callable[[], None] | None = None
        self._credit = 0  # position
        self._stop: int | None = None
        self.cursor = audio.end
        self.origin = audio.end  # where the stream's own position 0 is
        self.running = False
        self.limit: Callable[[], int] | None = None  # a further bound, asked at each pump
        self._keep_from: int | None = None
        self._most = audio.position(MAX_FRAME_MS)

    @property
    def needed(self) -> int:
        """The oldest byte that must be kept for this feed."""
        next_sent = self.cursor if self.running else self._audio.end
        return next_sent if self._keep_from is None else min(self._keep_from, next_sent)

    def attach(self, start_ms: float) -> None:
        """Start sending to a new stream at `start_ms`, as far as that is still kept; its credit counts from there."""
        self.cursor = self.origin = self._audio.clamp(self._audio.position(start_ms))
        self._credit = self.cursor
        self._stop = None
        self._on_end = None
        self.running = True

    def resume(self, start_ms: float) -> None:
        """Send what starts at `start_ms` to the same stream, but nothing that it was already sent."""
        self.skip_to(self._audio.clamp(self._audio.position(start_ms)))
        self._stop = None
        self._on_end = None
        self.running = True
        self.pump()

    def skip_to(self, position: int) -> None:
        """Leave out what lies before, if it was not sent yet: the stream and its credit count only what it is sent."""
        skipped = max(0, position - self.cursor)
        self.cursor += skipped
        self.origin += skipped
        self._credit += skipped

    def allow(self, until_ms: int) -> None:
        """New credit, as the stream counts."""
        self._credit = max(self._credit, self.origin + self._audio.position(until_ms))
        self.pump()

    def allow_all(self) -> None:
        """Credit for all that has come: what reads it has no credit of its own."""
        self._credit = self._audio.end
        self.pump()

    def stop_at(self, position_ms: float, on_end: Callable[[], None]) -> None:
        """Send up to `position_ms`, then call `on_end` once and pause."""
        self._stop = self._audio.position(position_ms)
        self._on_end = on_end
        self.pump()

    def keep(self, start_ms: float | None) -> None:
        """Keep the audio from here on: it may be wanted again. None: keep no more than is still to be sent."""
        self._keep_from = None if start_ms is None else self._audio.position(max(0.0, start_ms))

    def pause(self) -> None:
        """Send nothing until resumed or attached."""
        self.running = False
        self._stop = None
        self._on_end = None

    def to_session_ms(self, stream_ms: float) -> float:
        """The session's position of a position that the stream reported."""
        return (self.origin + self._audio.position(stream_ms)) * 1000 / (self._audio.sample_rate * SAMPLE_BYTES)

    def pump(self) -> None:
        """Send what has come and may be sent: frame by frame when it comes in real time, in larger parts behind it."""
        if not self.running:
            return
        audio = self._audio
        end = min(audio.end, self._credit)
        if self.limit is not None:
            end = min(end, self.limit())
        if self._stop is not None:
            end = min(end, self._stop)
        while self.cursor < end:
            part = min(end, self.cursor + self._most)
            self._send(audio.read(self.cursor, part))
            self.cursor = part
        if self._stop is not None and self.cursor >= self._stop:
            on_end = self._on_end
            self.pause()
            if on_end is not None:
                on_end()
