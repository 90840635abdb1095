"""A vad engine that takes every sound for speech and only silence for silence; records how many it heard at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import ClassVar

from services.engine import VadEngine, VadStream, VadWindow
from services.vad.segmenter import SpeechOptions
from tests.engines import scripting
from tests.engines.scripting import Count, Seconds, record

LOUD = 0.01  # mean absolute sample


class VAD(SpeechOptions, frozen=True, kw_only=True):
    """`fail_at`: the call that holds this stream's window of that number raises."""

    engine: ClassVar[str] = "scripted-vad"

    fail_at: Count = 0
    hang_loop_s: Seconds = 0.0  # the call with the first window blocks the node's loop for so long


class Stream(VadStream):
    """One conversation."""

    window = 512

    def __init__(self, options: VAD) -> None:
        self.options = options
        self.heard = 0

    def hear(self) -> None:
        """A window."""
        self.heard += 1
        if self.heard == 1 and self.options.hang_loop_s:
            time.sleep(self.options.hang_loop_s)
        scripting.fail(self.heard == self.options.fail_at, "unexpected")


class Engine(VadEngine[VAD]):
    """Judges by loudness."""

    options_type = VAD
    sample_rates = (16_000, 8_000)

    async def load(self, slots: int) -> None:
        await scripting.load()

    def open(self, options: VAD) -> VadStream:
        return Stream(options)

    def process(self, windows: Sequence[VadWindow]) -> Sequence[float]:
        record(f"batch {len(windows)}")
        for window in windows:
            assert isinstance(window.stream, Stream)
            window.stream.hear()
        return [float(abs(window.samples).mean() > LOUD) for window in windows]
