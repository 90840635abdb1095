"""The client's audio on its way to the hearing: what is too much, what is missing, and when it came."""

from __future__ import annotations

from orchestrator.hearing import Hearing
from orchestrator.timeline import Arrivals
from orchestrator.utterance import Clock
from protocol.audio import AudioFormat
from protocol.errors import TooLarge
from protocol.limits import FRAME_MS, INGEST_AHEAD_MS

STALLED_S = 0.3  # a line that is quiet for so long while somebody speaks is taken to be silent
OVERRUN_MS = INGEST_AHEAD_MS + 30_000  # of audio beyond what vad has taken: what a client without credit may cost


class Intake:
    """Of one session. Positions are milliseconds of the session's audio, what was put in included."""

    def __init__(self, hearing: Hearing, audio_format: AudioFormat, clock: Clock) -> None:
        self._hearing = hearing
        self._format = audio_format
        self._clock = clock
        self._arrivals = Arrivals()
        self._last_at = clock()
        self._inserted_ms = 0.0  # silence that was put in for a line that stalled
        self._inserted_before_segment_ms = 0.0
        self._muted = False

    def push(self, pcm: bytes) -> None:
        """A frame of the client. Raises `TooLarge`, once, when it is too far ahead; frames are dropped then."""
        hearing = self._hearing
        if hearing.backlog_ms > OVERRUN_MS:
            if not self._muted:
                self._muted = True
                raise TooLarge(
                    f"audio runs {hearing.backlog_ms / 1000:.0f} s ahead of what could be taken in; frames are dropped "
                    f"until it has caught up. Wait for `credit` before sending more"
                )
            return
        self._muted = False
        self._last_at = now = self._clock()
        hearing.push(pcm)
        self._arrivals.note(hearing.audio.end_ms, now)

    def fill(self, now: float) -> None:
        """Somebody speaks: put in silence for a client that has stopped sending, for it has stopped speaking."""
        missing = int((now - self._last_at - STALLED_S) * 1000 / FRAME_MS)
        silence = bytes(self._format.frame_bytes(FRAME_MS))
        for _ in range(missing):
            self._inserted_ms += FRAME_MS
            self._hearing.push(silence)
        self._last_at += max(0, missing) * FRAME_MS / 1000

    def start_segment(self) -> None:
        """What comes from now on belongs to a new segment of speech."""
        self._inserted_before_segment_ms = self._inserted_ms

    def client_ms(self, at_ms: float) -> float:
        """A position as the client counts it: without the silence that was put in. -1 stays -1."""
        return at_ms - self._inserted_before_segment_ms if at_ms >= 0 else -1.0

    def arrived_at(self, at_ms: float, now: float) -> float:
        """When this position arrived, monotonic seconds."""
        return self._arrivals.at(at_ms, now)
