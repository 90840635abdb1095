"""The simulated VAD: speech is what is loud. It hears the real samples; its verdict needs no model."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from orchestrator.testing.work import Desk, Work
from protocol.audio import SAMPLE_BYTES
from protocol.limits import NODE_AHEAD_MS
from protocol.node import AudioIn, OpenStream, Speech, Taken, ToNode

WINDOW_MS = 20
CREDIT_STEP_MS = 500  # how often credit is renewed, in audio time: as nodes do
# Of 32768. In the recordings of examples/audio rooms are below 60, and no pause inside a sentence is longer than 220 ms
# at this threshold.
THRESHOLD_RMS = 300.0


class SimulatedVad:
    """What all its streams share. Times are of audio, and hold for whole windows of `WINDOW_MS`.

    - `threshold_rms`: a window at least so loud is voiced.
    - `min_speech_ms`: speech starts with so much voiced audio in a row; it is reported with the time it began.
    - `min_silence_ms`: it ends with so much unvoiced audio in a row, and is reported with the time it ended.
    - `report_silence_ms`: for how long the silence after speech is reported, window by window.
    """

    def __init__(self) -> None:
        self.threshold_rms = THRESHOLD_RMS
        self.min_speech_ms = 64
        self.min_silence_ms = 250
        self.report_silence_ms = 3_000

    def work(self, opening: OpenStream, desk: Desk) -> Work:
        """A new stream."""
        return _Listening(opening, desk, self)


class _Listening(Work):
    """One conversation's audio. Windows are counted; `_from` and `_until` bound the last voiced ones."""

    takes = (AudioIn,)

    def __init__(self, opening: OpenStream, desk: Desk, vad: SimulatedVad) -> None:
        super().__init__(opening, desk)
        self._vad = vad
        self._window_bytes = opening.sample_rate * WINDOW_MS // 1000 * SAMPLE_BYTES
        self._pending = bytearray()
        self._now = 0  # windows that were heard
        self._from: int | None = None  # where the voiced run began that is going on
        self._until = 0  # where the speech ended, so far
        self._speaking = False
        self._reporting = False
        self._credited_ms = 0

    def begin(self) -> None:
        self.send(Taken(0, 0, 0, NODE_AHEAD_MS))

    def take(self, message: ToNode) -> None:
        assert isinstance(message, AudioIn)
        self._pending += message.pcm
        while len(self._pending) >= self._window_bytes:
            samples = np.frombuffer(self._pending, dtype="<i2", count=self._window_bytes // SAMPLE_BYTES)
            loudness = math.sqrt(float(np.mean(np.square(samples.astype(np.float64)))))
            del samples  # it holds on to the buffer that is cut
            del self._pending[: self._window_bytes]
            self._judge(loudness >= self._vad.threshold_rms)

    def _judge(self, voiced: bool) -> None:
        begin, self._now = self._now, self._now + 1
        self._from = (begin if self._from is None else self._from) if voiced else None
        if self._speaking:
            self._in_speech(voiced)
        elif self._from is not None:
            self._in_run(self._from)
        elif self._reporting:
            self._reporting = self._now - self._until <= self._vad.report_silence_ms // WINDOW_MS
            if self._reporting:
                self._say_silent("silence")
        if self._now * WINDOW_MS - self._credited_ms >= CREDIT_STEP_MS:
            self._credited_ms = self._now * WINDOW_MS
            self.send(Taken(0, 0, 0, self._credited_ms + NODE_AHEAD_MS))

    def _in_speech(self, voiced: bool) -> None:
        if voiced:
            self._until = self._now
        elif self._now - self._until >= _windows(self._vad.min_silence_ms):
            self._speaking, self._reporting = False, True
            self._say_silent("end")

    def _in_run(self, run_from: int) -> None:
        """It may be speech: it is, once the run is long enough. Until then nothing is reported."""
        if self._now - run_from >= _windows(self._vad.min_speech_ms):
            self._speaking, self._reporting, self._until = True, False, self._now
            self.send(Speech(0, 0, 0, "start", run_from * WINDOW_MS))

    def _say_silent(self, event: Literal["end", "silence"]) -> None:
        self.send(Speech(0, 0, 0, event, self._until * WINDOW_MS, (self._now - self._until) * WINDOW_MS))


def _windows(duration_ms: int) -> int:
    return max(1, math.ceil(duration_ms / WINDOW_MS))
