"""The audio that travels: 16-bit signed PCM, little endian, mono, 8 to 48 kHz, in frames of 20 ms by default."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from protocol.errors import Malformed, TooLarge
from protocol.limits import FRAME_MS, MAX_FRAME_MS, MAX_SAMPLE_RATE, MIN_SAMPLE_RATE

SAMPLE_BYTES = 2
ENCODING = "pcm_s16le"


class AudioFormat(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """How a run of samples is to be read. On the wire: `[sample_rate, channels, encoding]`."""

    sample_rate: int = 16_000  # samples a second
    channels: int = 1
    encoding: str = ENCODING

    def check(self, where: str) -> None:
        """Raise `Malformed`, naming what is impossible, unless this is a format that Antiphon speaks."""
        if not MIN_SAMPLE_RATE <= self.sample_rate <= MAX_SAMPLE_RATE:
            raise Malformed(
                f"{where}.sample_rate is {self.sample_rate} Hz; allowed are {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz"
            )
        if self.channels != 1:
            raise Malformed(
                f"{where}.channels is {self.channels}; only 1 (mono) is allowed: mix the channels down first"
            )
        if self.encoding != ENCODING:
            raise Malformed(f"{where}.encoding is {self.encoding!r}; only {ENCODING!r} is allowed")

    def frame_bytes(self, duration_ms: int = FRAME_MS) -> int:
        """Bytes of `duration_ms` of audio, rounded down to whole samples."""
        return self.sample_rate * duration_ms // 1000 * SAMPLE_BYTES

    def duration_ms(self, num_bytes: int) -> float:
        """Length of `num_bytes` of audio in milliseconds."""
        return num_bytes * 1000 / (self.sample_rate * SAMPLE_BYTES)

    def check_frame(self, pcm: bytes, where: str) -> None:
        """Raise `Malformed` for half a sample and `TooLarge` for a frame over `MAX_FRAME_MS`."""
        if len(pcm) % SAMPLE_BYTES:
            raise Malformed(f"{where}.pcm has {len(pcm)} bytes; 16-bit samples need an even number")
        if len(pcm) > self.frame_bytes(MAX_FRAME_MS):
            raise TooLarge(
                f"{where}.pcm has {len(pcm)} bytes, {self.duration_ms(len(pcm)):.0f} ms at {self.sample_rate} Hz; "
                f"a frame may hold {MAX_FRAME_MS} ms, {self.frame_bytes(MAX_FRAME_MS)} bytes"
            )


@dataclass(slots=True)
class AudioFrame:
    """Some sound: 16-bit mono PCM, little endian, `sample_rate` samples a second."""

    pcm: bytes
    sample_rate: int

    @property
    def duration_ms(self) -> float:
        """Length in milliseconds."""
        return len(self.pcm) * 1000 / (self.sample_rate * SAMPLE_BYTES)
