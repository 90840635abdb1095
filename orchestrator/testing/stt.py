"""The simulated STT: it counts what it hears, and says what the test has told it to."""

from __future__ import annotations

from collections import deque
from functools import partial

from orchestrator.testing.script import Unscripted
from orchestrator.testing.work import Desk, Work
from protocol.audio import AudioFormat
from protocol.errors import AntiphonError
from protocol.limits import NODE_AHEAD_MS
from protocol.node import AudioIn, Flush, OpenStream, Taken, ToNode, TranscriptOut

CREDIT_STEP_MS = 500  # how often credit is renewed, in audio time: as nodes do
PARTIAL_WORDS = 2


class SimulatedStt:
    """What all its streams share.

    - `transcripts`: what the coming segments of speech are recognised as; append to it before somebody speaks. An
      error in place of a text fails the stream with it; "" is speech in which no words were found.
    - `final_s`: from the end of a segment to its final transcript.
    - `segments_ms`: how much audio each segment had that got its final, oldest first.
    """

    def __init__(self) -> None:
        self.transcripts: deque[str | AntiphonError] = deque()
        self.final_s = 0.0
        self.segments_ms: list[float] = []

    def work(self, opening: OpenStream, desk: Desk) -> Work:
        """A new stream."""
        return _Recognition(opening, desk, self)


class _Recognition(Work):
    """One conversation's segments. They count from 1, as the flushes that end them."""

    takes = (AudioIn, Flush)

    def __init__(self, opening: OpenStream, desk: Desk, stt: SimulatedStt) -> None:
        super().__init__(opening, desk)
        self._stt = stt
        self._audio = AudioFormat(opening.sample_rate)
        self._segment = 1
        self._heard_ms = 0.0  # of this segment
        self._inbox: deque[AudioIn | Flush] = deque()  # what waits for the final of the segment before it
        self._finishing = False
        self._taken_ms = self._credited_ms = 0.0

    def begin(self) -> None:
        self.send(Taken(0, 0, 0, NODE_AHEAD_MS))

    def take(self, message: ToNode) -> None:
        assert isinstance(message, AudioIn | Flush)
        self._inbox.append(message)
        self._go_on()

    def _go_on(self) -> None:
        while self._inbox and not self._finishing:
            message = self._inbox.popleft()
            if isinstance(message, AudioIn):
                self._hear(message.pcm)
            else:
                self._finishing = True
                self.later(self._stt.final_s, partial(self._finish, message.segment))

    def _hear(self, pcm: bytes) -> None:
        expected = self._stt.transcripts[0] if self._stt.transcripts else ""
        if not self._heard_ms and isinstance(expected, str) and expected:
            partial = " ".join(expected.split()[:PARTIAL_WORDS])
            self.send(TranscriptOut(0, 0, 0, self._segment, partial, False))
        duration_ms = self._audio.duration_ms(len(pcm))
        self._heard_ms += duration_ms
        self._taken_ms += duration_ms
        if self._taken_ms - self._credited_ms >= CREDIT_STEP_MS:
            self._credited_ms = self._taken_ms
            self.send(Taken(0, 0, 0, int(self._taken_ms) + NODE_AHEAD_MS))

    def _finish(self, segment: int) -> None:
        if not self._stt.transcripts:
            raise Unscripted(
                f"{self._heard_ms:.0f} ms of speech came to the simulated stt, and the test has not said what it is: "
                f'`nodes.stt.transcripts.append("…")` before somebody speaks'
            )
        transcript = self._stt.transcripts.popleft()
        if isinstance(transcript, AntiphonError):
            self.fail(transcript)
            return
        self.send(TranscriptOut(0, 0, 0, segment, transcript, True))
        self._stt.segments_ms.append(self._heard_ms)
        self._segment, self._heard_ms, self._finishing = segment + 1, 0.0, False
        self._go_on()
