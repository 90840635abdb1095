"""How a session hears: its audio, its vad and stt streams, and what keeps them alive when nodes come and go.

Both streams stay on their node for as long as it lives. When it is lost, or drains, they are opened on another one and
fed what is needed of the audio again; that is the whole of their failover.
"""

from __future__ import annotations

import logging
import time
from typing import Protocol

from orchestrator.input_audio import Feed, InputAudio
from orchestrator.nodes import Node, NodePool
from orchestrator.streams import NodeStream
from protocol.engine import EngineSpec
from protocol.errors import AntiphonError, NodeLost, Unavailable
from protocol.limits import NODE_AHEAD_MS
from protocol.node import AudioIn, Flush, FromNode, Speech, StreamOpened, Taken, TranscriptOut

log = logging.getLogger(__name__)

PREROLL_MS = 300  # fed to stt before the speech that vad saw: soft beginnings
REHEARD_MS = 600
MAX_LOST = 3  # nodes that one segment may cost before it is given up
RETRY_S = 0.2
# A client that is so far ahead of real time is sending a recording: then stt must not run ahead of vad, or it would be
# fed the next utterance before vad has said where this one ends.
FAST_MS = 500


class Listener(Protocol):
    """Who hears of it. Called from the socket's drain."""

    def on_speech(self, event: str, at_ms: float, silence_ms: float) -> None:
        """Vad: `start`, `end` or `silence`, in the session's time."""

    def on_transcript(self, segment: int, text: str, final: bool) -> None:
        """Stt: of this segment."""

    def on_segment_lost(self, segment: int, error: AntiphonError) -> None:
        """No final will come for this segment."""

    def on_credit(self, until_ms: int) -> None:
        """The client may send so much audio."""

    def on_trouble(self, error: AntiphonError) -> None:
        """A stream could not be opened again; it is tried until it can."""


class Ear:
    """One of the two streams: where it is fed from, and whether it is open."""

    def __init__(self, spec: EngineSpec, feed: Feed) -> None:
        self.spec = spec
        self.feed = feed
        self.stream: NodeStream | None = None
        self.ready = False
        self.retry_at = 0.0
        self.lost = 0  # nodes lost since the last success
        self.troubled = False


class Hearing:
    """The input side of a session. `start()`, then `push()` frames; `close()` in the end."""

    def __init__(
        self, *, pool: NodePool, session: str, vad: EngineSpec, stt: EngineSpec, client_rate: int, listener: Listener
    ) -> None:
        self._pool = pool
        self._session = session
        self._listener = listener
        # Raises NoNode or Overloaded here, when the session opens, if nobody serves them.
        rate = pool.sample_rate(vad, client_rate)
        pool.sample_rate(stt, client_rate)
        self.audio = InputAudio(client_rate, rate)
        self._vad = Ear(vad, self.audio.feed(self._send_vad))
        self._stt = Ear(stt, self.audio.feed(self._send_stt))
        self._stt.feed.limit = self._stt_limit
        self._vad_taken_ms = 0.0
        self._quiet_ms = 0.0  # no speech that is still of interest lies before
        self._began = time.monotonic()
        self._segment = 0  # the segment that stt is working on; 0: none
        self._segment_at_ms = 0.0
        self._segment_end_ms: float | None = None

    @property
    def nodes(self) -> dict[str, str]:
        """Which node serves which stage."""
        return {ear.spec.service: ear.stream.node.name for ear in (self._vad, self._stt) if ear.stream is not None}

    @property
    def backlog_ms(self) -> float:
        """Audio that has come and that vad has not taken yet."""
        return self.audio.end_ms - self._vad_taken_ms

    def start(self) -> None:
        """Open both streams; raises `NoNode` or `Overloaded`."""
        for ear in (self._vad, self._stt):
            self._open(ear)

    def close(self) -> None:
        """Close both streams. Safe to repeat."""
        for ear in (self._vad, self._stt):
            if ear.stream is not None:
                ear.stream.close()
                ear.stream = None

    def push(self, pcm: bytes) -> None:
        """A frame of the client."""
        self.audio.push(pcm)

    def start_segment(self, segment: int, at_ms: float) -> None:
        """Feed stt from shortly before `at_ms`."""
        self._segment, self._segment_at_ms, self._segment_end_ms = segment, at_ms, None
        self._stt.feed.resume(max(0.0, at_ms - PREROLL_MS))

    def end_segment(self, segment: int, at_ms: float) -> None:
        """Feed stt up to `at_ms`, then ask for the segment's final transcript."""
        self._segment_end_ms = at_ms
        self._stt.feed.stop_at(at_ms, lambda: self._flush(segment))

    def sweep(self, now: float) -> None:
        """Try again what could not be opened."""
        for ear in (self._vad, self._stt):
            if ear.stream is None and now >= ear.retry_at:
                self._reopen(ear)

    def leave(self, node: Node) -> None:
        """The node drains: move to another one. Call it between segments."""
        for ear in (self._vad, self._stt):
            if ear.stream is not None and ear.stream.node is node:
                ear.stream.close()
                ear.stream = None
                self._reopen(ear)

    # --- streams ----------------------------------------------------------------------------------------------------

    def on_stream_message(self, stream: NodeStream, message: FromNode) -> None:
        ear = self._vad if stream is self._vad.stream else self._stt
        if isinstance(message, Taken):
            self._on_credit(ear, message.until_ms)
        elif isinstance(message, Speech):
            at_ms = ear.feed.to_session_ms(message.at_ms)
            self._vad_taken_ms = max(self._vad_taken_ms, at_ms + message.silence_ms)
            if message.event != "start":
                self._quiet_ms = at_ms + message.silence_ms
            self._listener.on_speech(message.event, at_ms, message.silence_ms)
        elif isinstance(message, TranscriptOut):
            self._on_transcript(message)
        elif isinstance(message, StreamOpened):
            ear.ready, ear.troubled = True, False

    def on_stream_failed(self, stream: NodeStream, error: AntiphonError) -> None:
        ear = self._vad if stream is self._vad.stream else self._stt
        ear.stream = None
        was_ready, ear.ready = ear.ready, False
        ear.feed.pause()
        ear.lost += 1
        log.warning("session %s: %s", self._session, error)
        if not was_ready and error.category == "configuration":
            self._listener.on_trouble(error)
            ear.retry_at = float("inf")
            return
        if ear is self._stt and self._segment and ear.lost >= MAX_LOST:
            self._give_up(error)
        # A lost node is replaced at once; one that fails again and again must not make a busy loop.
        if isinstance(error, NodeLost) and ear.lost < MAX_LOST:
            self._reopen(ear)
        else:
            ear.retry_at = time.monotonic() + RETRY_S

    def _open(self, ear: Ear) -> None:
        stream = self._pool.open(
            ear.spec, self, session=self._session, generation=0, sample_rate=self.audio.sample_rate
        )
        ear.stream, ear.ready = stream, False
        # A new vad hears again what the lost one may not have judged, but no speech that has already ended.
        again_ms = REHEARD_MS if ear is self._vad else 0
        ear.feed.attach(max(self.audio.end_ms - again_ms, self._quiet_ms))
        if ear is self._stt:
            ear.feed.pause()

    def _reopen(self, ear: Ear) -> None:
        try:
            self._open(ear)
        except Unavailable as error:
            ear.retry_at = time.monotonic() + RETRY_S
            if not ear.troubled:
                ear.troubled = True
                self._listener.on_trouble(error)
            return
        if self._segment:
            self._replay(ear)

    def _replay(self, ear: Ear) -> None:
        """In the middle of a segment: feed its audio again."""
        ear.feed.attach(max(0.0, self._segment_at_ms - PREROLL_MS))
        if ear is self._stt:
            segment = self._segment
            ear.feed.resume(self._segment_at_ms - PREROLL_MS)
            if self._segment_end_ms is not None:
                ear.feed.stop_at(self._segment_end_ms, lambda: self._flush(segment))

    def _on_credit(self, ear: Ear, until_ms: int) -> None:
        if ear is self._vad:
            self._vad_taken_ms = max(self._vad_taken_ms, ear.feed.to_session_ms(until_ms - NODE_AHEAD_MS))
            self._listener.on_credit(int(self._vad_taken_ms))
            ear.feed.allow(until_ms)
            self._stt.feed.pump()
        else:
            ear.feed.allow(until_ms)

    def _on_transcript(self, message: TranscriptOut) -> None:
        if message.final and message.segment == self._segment and self._segment_end_ms is not None:
            self._segment = 0
            self._stt.lost = 0
            self._stt.feed.release()
        # A stream that was opened again counts its segments anew; only its final says which one it means.
        segment = message.segment if message.final else self._segment
        if segment:
            self._listener.on_transcript(segment, message.text, message.final)

    def _give_up(self, error: AntiphonError) -> None:
        segment, self._segment = self._segment, 0
        self._stt.lost = 0
        self._stt.feed.release()
        self._listener.on_segment_lost(segment, error)

    def _flush(self, segment: int) -> None:
        if self._stt.stream is not None:
            self._stt.stream.send(Flush(0, 0, 0, segment))

    def _send_vad(self, pcm: bytes) -> None:
        if self._vad.stream is not None:
            self._vad.stream.send(AudioIn(0, 0, 0, pcm))

    def _send_stt(self, pcm: bytes) -> None:
        if self._stt.stream is not None:
            self._stt.stream.send(AudioIn(0, 0, 0, pcm))

    def _stt_limit(self) -> int:
        real_ms = (time.monotonic() - self._began) * 1000
        if self.audio.end_ms - real_ms < FAST_MS:
            return self.audio.end
        return self.audio.position(self._vad_taken_ms)
