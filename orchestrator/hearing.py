"""How a session hears: its audio, its vad and stt streams, and what keeps them alive when nodes come and go.

Both streams stay on their node for as long as it lives. When it is lost, or drains, they are opened on another one and
fed what is needed of the audio again; that is the whole of their failover. Where the current task has an `stt_node` of
its own, that is given the segments instead of an stt stream (`own_stt.py`).
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from typing import Protocol

from orchestrator.ears import Ears
from orchestrator.input_audio import KEPT_MS, Feed, InputAudio
from orchestrator.nodes import Node
from orchestrator.own_stt import OwnStt
from orchestrator.streams import NodeStream, Pool
from orchestrator.utterance import Clock
from protocol.engine import EngineSpec
from protocol.errors import AntiphonError, NodeLost, Unavailable
from protocol.limits import NODE_AHEAD_MS
from protocol.node import AudioIn, Flush, FromNode, Speech, StreamOpened, Taken, TranscriptOut

log = logging.getLogger(__name__)

PREROLL_MS = 300  # fed to stt before the speech that vad saw: soft beginnings
REHEARD_MS = 600
DEFAULT_RATE = 16_000  # Hz, for a conversation that begins deaf: what every engine takes
DEAF_STEP_MS = 500  # of audio for which credit is given at once, when nobody listens to it
MAX_LOST = 3  # nodes that one segment may cost before it is given up
RETRY_S = 0.2
# A client that is so far ahead of real time is sending a recording. Then stt must not run ahead of vad, or it would be
# fed the next utterance before vad has said where this one ends; nor vad ahead of stt, or the next utterance would
# begin before this one's transcript is there, and become a part of its turn.
FAST_MS = 500
FAST_STEP_MS = 600  # that vad is fed beyond what it has taken: more than what a node takes before it renews credit


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


@dataclass(slots=True)
class Segment:
    """A run of speech whose final transcript has not come. Milliseconds of the session; `end_ms` None: it goes on."""

    number: int
    start_ms: float
    end_ms: float | None = None


class Ear:
    """One of the two streams: where it is fed from, and whether it is open. `spec` None: there is none."""

    def __init__(self, spec: EngineSpec | None, feed: Feed) -> None:
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
        self, *, pool: Pool, session: str, ears: Ears, client_rate: int, listener: Listener, clock: Clock
    ) -> None:
        self._pool = pool
        self._session = session
        self._listener = listener
        self._clock = clock
        self._ears = ears
        # Raises NoNode or Overloaded here, when the session opens, if nobody serves them.
        first = ears.stt if ears.streaming else ears.vad
        rate = pool.sample_rate(first, client_rate) if first is not None else DEFAULT_RATE
        self.audio = InputAudio(client_rate, rate)
        self._vad = Ear(None, self.audio.feed(self._send_vad))
        self._stt = Ear(None, self.audio.feed(self._send_stt))
        self._own: OwnStt | None = None
        self._vad.feed.limit, self._stt.feed.limit = self._vad_limit, self._stt_limit
        self._vad_taken_ms = 0.0
        self._quiet_ms = 0.0  # no speech that is still of interest lies before
        self._real_until = 0.0  # when the audio that has come would have ended, had it come in real time; monotonic
        self._segments: deque[Segment] = deque()  # oldest first; stt is given one after the other
        self._feeding: Segment | None = None  # the one whose audio stt is being given
        self._silent_since: float | None = None  # without a vad: when stt found the end of what was said

    @property
    def nodes(self) -> dict[str, str]:
        """Which node serves which stage."""
        open_streams = [ear.stream for ear in (self._vad, self._stt) if ear.stream is not None]
        return {stream.spec.service: stream.node.name for stream in open_streams}

    @property
    def backlog_ms(self) -> float:
        """Audio that has come and that vad has not taken yet."""
        return self.audio.end_ms - self._vad_taken_ms

    def start(self) -> None:
        """Open the streams; raises `NoNode` or `Overloaded`."""
        self._listen()
        for ear in (self._vad, self._stt):
            if ear.spec is not None:
                self._open(ear)

    def close(self) -> None:
        """Close the streams. Safe to repeat."""
        for ear in (self._vad, self._stt):
            self._shut(ear)
        if self._own is not None:
            self._own.close()

    def change(self, ears: Ears) -> bool:
        """Hear with these from now on. False while a segment is being recognised: ask again."""
        if ears.same(self._ears) or self._segments:
            return ears.same(self._ears)
        old, self._ears = self._ears, ears
        if self._own is not None:
            self._own.close()
        was = (self._vad.spec, self._stt.spec)
        self._listen()
        for ear, before in zip((self._vad, self._stt), was, strict=True):
            if ear.spec != before:
                self._shut(ear)
                if ear.spec is not None:
                    self._reopen(ear)
        if old.deaf and not ears.deaf:
            self._vad_taken_ms = self.audio.end_ms
        return True

    def _listen(self) -> None:
        ears = self._ears
        self._own = OwnStt(self.audio.sample_rate, ears.own_stt, self._on_own) if ears.own_stt is not None else None
        self._vad.spec = None if ears.deaf or ears.streaming else ears.vad
        self._stt.spec = None if ears.deaf or self._own is not None else ears.stt
        if self._own is not None:
            self._stt.feed.attach(self.audio.end_ms - KEPT_MS)
            self._stt.feed.pause()

    def _shut(self, ear: Ear) -> None:
        if ear.stream is not None:
            ear.stream.close()
            ear.stream = None
        ear.ready = ear.troubled = False
        ear.lost, ear.retry_at = 0, 0.0
        if ear is self._vad or self._own is None:
            ear.feed.pause()

    def push(self, pcm: bytes) -> None:
        """A frame of the client."""
        before_ms, now = self.audio.end_ms, self._clock()
        self.audio.push(pcm)
        self._real_until = max(self._real_until, now) + (self.audio.end_ms - before_ms) / 1000
        if self._own is not None:
            self._stt.feed.allow_all()
        if self._ears.deaf and self.audio.end_ms - self._vad_taken_ms >= DEAF_STEP_MS:
            self._vad_taken_ms = self.audio.end_ms
            self._listener.on_credit(int(self._vad_taken_ms))

    def start_segment(self, segment: int, at_ms: float) -> None:
        """Feed stt from shortly before `at_ms`."""
        self._segments.append(Segment(segment, max(0.0, at_ms - PREROLL_MS)))
        self._keep()
        if self._feeding is None and not self._ears.streaming:
            self._feed(self._segments[-1])

    def end_segment(self, segment: int, at_ms: float) -> None:
        """Feed stt up to `at_ms`, then ask for the segment's final transcript."""
        for one in self._segments:
            if one.number == segment:
                one.end_ms = at_ms
                if one is self._feeding:
                    self._stt.feed.stop_at(at_ms, self._on_fed)

    def sweep(self, now: float) -> None:
        """Try again what could not be opened."""
        for ear in (self._vad, self._stt):
            if ear.spec is not None and ear.stream is None and now >= ear.retry_at:
                self._reopen(ear)
        if self._silent_since is not None:
            silent_ms = (now - self._silent_since) * 1000
            self._listener.on_speech("silence", self.audio.end_ms - silent_ms, silent_ms)

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
            self._stt.feed.pump()
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
        if ear is self._stt:
            self._feeding = None
            if self._segments and ear.lost >= MAX_LOST:
                self._give_up(error)
        # A lost node is replaced at once; one that fails again and again must not make a busy loop.
        if isinstance(error, NodeLost) and ear.lost < MAX_LOST:
            self._reopen(ear)
        else:
            ear.retry_at = self._clock() + RETRY_S

    def _open(self, ear: Ear) -> None:
        assert ear.spec is not None
        stream = self._pool.open(
            ear.spec, self, session=self._session, generation=0, sample_rate=self.audio.sample_rate
        )
        ear.stream, ear.ready = stream, False
        if ear is self._vad:
            # A new vad hears what the lost one has not judged, and a little before, but no speech that has ended.
            ear.feed.attach(max(self._vad_taken_ms - REHEARD_MS, self._quiet_ms))
        else:
            ear.feed.attach(self.audio.end_ms - KEPT_MS)  # speech that has just begun may not be known yet
            if not self._ears.streaming:
                ear.feed.pause()

    def _reopen(self, ear: Ear) -> None:
        try:
            self._open(ear)
        except Unavailable as error:
            ear.retry_at = self._clock() + RETRY_S
            if not ear.troubled:
                ear.troubled = True
                self._listener.on_trouble(error)
            return
        if not self._segments:
            return
        if ear is self._stt:
            oldest = self._segments[0]
            ear.feed.attach(oldest.start_ms)
            if not self._ears.streaming:
                self._feed(oldest)
        elif self._segments[-1].end_ms is None:  # somebody is speaking: vad is to hear it from the beginning
            ear.feed.attach(self._segments[-1].start_ms)

    # --- segments ---------------------------------------------------------------------------------------------------

    def _feed(self, segment: Segment) -> None:
        """Give stt this segment; the next one follows by itself."""
        self._feeding = segment
        if self._own is not None:
            self._own.begin(segment.number)
        self._stt.feed.resume(segment.start_ms)
        if segment.end_ms is not None:
            self._stt.feed.stop_at(segment.end_ms, self._on_fed)

    def _on_fed(self) -> None:
        """Stt has all of the segment: ask for its final."""
        done, self._feeding = self._feeding, None
        if done is None:
            return
        if self._own is not None:
            self._own.end()
        elif self._stt.stream is not None:
            self._stt.stream.send(Flush(0, 0, 0, done.number))
        following = next((segment for segment in self._segments if segment.number > done.number), None)
        if following is not None:
            self._feed(following)

    def _keep(self) -> None:
        """Keep the audio of all segments that another node may have to hear."""
        self._stt.feed.keep(self._segments[0].start_ms if self._segments else None)

    def _on_credit(self, ear: Ear, until_ms: int) -> None:
        if ear is self._vad:
            ear.lost = 0
            self._vad_taken_ms = max(self._vad_taken_ms, ear.feed.to_session_ms(until_ms - NODE_AHEAD_MS))
            self._listener.on_credit(int(self._vad_taken_ms))
            ear.feed.allow(until_ms)
            self._stt.feed.pump()
            return
        if self._ears.streaming:
            self._vad_taken_ms = max(self._vad_taken_ms, ear.feed.to_session_ms(until_ms - NODE_AHEAD_MS))
            self._listener.on_credit(int(self._vad_taken_ms))
        ear.feed.allow(until_ms)

    def _on_transcript(self, message: TranscriptOut) -> None:
        if self._ears.streaming:
            self._on_streamed(message)
            return
        # A node works on segments in order, and one that was opened again counts anew: a partial is of the oldest.
        segment = message.segment if message.final else self._segments[0].number if self._segments else 0
        self._transcribed(segment, message.text, message.final)

    def _transcribed(self, segment: int, text: str, final: bool) -> None:
        if final:
            self._stt.lost = 0
            self._forget(segment)
        if segment:
            self._listener.on_transcript(segment, text, final)
        if final:
            self._vad.feed.pump()

    def _on_streamed(self, message: TranscriptOut) -> None:
        """An stt that finds speech itself: its words say that somebody speaks, its final that they have stopped."""
        at_ms = self.audio.end_ms
        if not self._segments:
            if not message.text:
                return
            self._silent_since = None
            self._listener.on_speech("start", at_ms, 0.0)
        number = self._segments[-1].number
        if not message.final:
            self._listener.on_transcript(number, message.text, False)
            return
        self._listener.on_speech("end", at_ms, 0.0)
        self._silent_since = self._clock()
        self._transcribed(number, message.text, True)

    def _on_own(self, segment: int, text: str, final: bool, error: AntiphonError | None) -> None:
        """The task's own stt_node has said something, or failed."""
        if error is None:
            self._transcribed(segment, text, final)
            return
        self._forget(segment)
        self._listener.on_segment_lost(segment, error)
        self._vad.feed.pump()

    def _forget(self, segment: int) -> None:
        """Its final is there, or will not come. An engine works on segments in order; of own nodes several may run."""
        own = self._own is not None
        self._segments = deque(one for one in self._segments if one.number > segment or (own and one.number < segment))
        self._keep()
        if own and self._feeding is not None and self._feeding.number == segment:  # it did not need to hear the rest
            self._stt.feed.pause()
            self._on_fed()

    def _give_up(self, error: AntiphonError) -> None:
        """No node could recognise what was said."""
        given_up, self._segments = self._segments, deque()
        self._stt.lost = 0
        self._keep()
        for segment in given_up:
            self._listener.on_segment_lost(segment.number, error)
        self._vad.feed.pump()

    def _send_vad(self, pcm: bytes) -> None:
        if self._vad.stream is not None:
            self._vad.stream.send(AudioIn(0, 0, 0, pcm))

    def _send_stt(self, pcm: bytes) -> None:
        if self._own is not None:
            self._own.push(pcm)
        elif self._stt.stream is not None:
            self._stt.stream.send(AudioIn(0, 0, 0, pcm))

    @property
    def _fast(self) -> bool:
        """The client is ahead of real time."""
        return (self._real_until - self._clock()) * 1000 >= FAST_MS

    def _stt_limit(self) -> int:
        follows = self._fast and not self._ears.streaming
        return self.audio.position(self._vad_taken_ms) if follows else self.audio.end

    def _vad_limit(self) -> int:
        if not self._fast:
            return self.audio.end
        if any(segment.end_ms is not None for segment in self._segments):
            return self._vad.feed.cursor  # until the final has come
        return self.audio.position(self._vad_taken_ms + FAST_STEP_MS)
