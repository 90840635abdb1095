"""From probabilities of speech to speech events: pure, without a clock, for any vad engine.

This room must not know where a probability comes from, nor what anybody does with an event. Time is counted in
windows of audio, so that the same audio always gives the same events, however late it arrives.

    voiced    a window at or above `activation_threshold`, and every one after it until one is below
              `deactivation_threshold`: between the two, nothing changes
    speech    starts with `min_speech_ms` of voiced windows in a row, ends with `min_silence_ms` of unvoiced ones
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal, NamedTuple, Protocol

from msgspec import Meta

from protocol.engine import EngineOptions, Service

Probability = Annotated[float, Meta(ge=0, le=1)]


class SpeechThresholds(Protocol):
    """What a `Segmenter` needs to know; `SpeechOptions` has it."""

    @property
    def activation_threshold(self) -> float: ...
    @property
    def deactivation_threshold(self) -> float: ...
    @property
    def min_speech_ms(self) -> int: ...
    @property
    def min_silence_ms(self) -> int: ...
    @property
    def report_silence_ms(self) -> int: ...


class SpeechOptions(EngineOptions, frozen=True, kw_only=True):
    """When sound counts as speech: the options that every vad engine with probabilities has. Times are of audio.

    - `activation_threshold` 0.5 and `deactivation_threshold` 0.35: what Silero ships (`threshold`, and 0.15 less, in
      `get_speech_timestamps` of silero-vad 6.2.3). Probabilities from 0 to 1; the second at most the first.
    - `min_speech_ms` 64: two windows of 32 ms, which is what the 50 ms of LiveKit's VAD come to. One is not enough,
      since a click or a knock may fill one; each further one makes an interruption 32 ms slower. No speech is lost:
      a start is reported with the time it began. At most 500, for so much audio must be kept to go back to.
    - `min_silence_ms` 250: as in LiveKit's VAD. Longer than the pauses inside a sentence (of the six in examples/audio,
      100 and 150 cut one in two, 200 none), shorter than the half second that ends a turn, so that the recogniser
      finishes while that time runs.
    - `report_silence_ms` 3000: for how long the silence after speech is reported, window by window. It must be longer
      than the longest endpointing delay in use; a stream that stays silent longer costs no messages.
    """

    service: ClassVar[Service] = "vad"

    activation_threshold: Probability = 0.5
    deactivation_threshold: Probability = 0.35
    min_speech_ms: Annotated[int, Meta(ge=0, le=500)] = 64
    min_silence_ms: Annotated[int, Meta(ge=0, le=10_000)] = 250
    report_silence_ms: Annotated[int, Meta(ge=0, le=60_000)] = 3_000

    def check(self) -> None:
        if not self.deactivation_threshold <= self.activation_threshold:  # also when one is not a number
            raise self.reject(
                "deactivation_threshold",
                f"it must be at most activation_threshold, which is {self.activation_threshold:g}",
            )


class SpeechEvent(NamedTuple):
    """The fields of `protocol.node.Speech`, in its order. Milliseconds, counted from the first window."""

    event: Literal["start", "end", "silence"]
    at_ms: int
    silence_ms: int = 0


class Segmenter:
    """The speech of one stream. `window_ms`: length of the windows whose probabilities `feed` is given, in order."""

    def __init__(self, options: SpeechThresholds, window_ms: float) -> None:
        self._activation = options.activation_threshold
        self._deactivation = options.deactivation_threshold
        self._min_speech = max(1, math.ceil(options.min_speech_ms / window_ms))
        self._min_silence = max(1, math.ceil(options.min_silence_ms / window_ms))
        self._report_silence = math.floor(options.report_silence_ms / window_ms)
        self._window_ms = window_ms
        self._now = 0  # windows that were fed
        self._voiced = False  # the last window was
        self._voiced_from = 0  # where the last run of voiced windows began
        self._voiced_until = 0  # where it ended, once speech has started
        self._speaking = False
        self._reporting = False  # the silence after speech

    @property
    def speaking(self) -> bool:
        """A start was reported, and no end yet."""
        return self._speaking

    def feed(self, probability: float) -> list[SpeechEvent]:
        """The events that this window brings, oldest first: one, or mostly none."""
        begin, self._now = self._now, self._now + 1
        if not self._voiced and probability >= self._activation:
            self._voiced, self._voiced_from = True, begin
        elif self._voiced and probability < self._deactivation:
            self._voiced = False
        if self._speaking:
            return self._in_speech()
        return self._in_run() if self._voiced else self._in_silence()

    def _in_speech(self) -> list[SpeechEvent]:
        """Speech goes on, or has been gone for long enough."""
        if self._voiced:
            self._voiced_until = self._now
            return []
        if self._now - self._voiced_until < self._min_silence:
            return []
        self._speaking, self._reporting = False, True
        return [self._silent("end")]

    def _in_run(self) -> list[SpeechEvent]:
        """It may be speech: it is, once the run is long enough. Until then neither speech nor silence is reported."""
        if self._now - self._voiced_from < self._min_speech:
            return []
        self._speaking, self._reporting, self._voiced_until = True, False, self._now
        return [SpeechEvent("start", self._milliseconds(self._voiced_from))]

    def _in_silence(self) -> list[SpeechEvent]:
        """Still silent since the last end. A run too short for speech has not changed when that was."""
        self._reporting = self._reporting and self._now - self._voiced_until <= self._report_silence
        return [self._silent("silence")] if self._reporting else []

    def _silent(self, event: Literal["end", "silence"]) -> SpeechEvent:
        end = self._voiced_until
        return SpeechEvent(event, self._milliseconds(end), self._milliseconds(self._now - end))

    def _milliseconds(self, windows: int) -> int:
        return round(windows * self._window_ms)
