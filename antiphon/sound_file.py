"""Recorded speech: any file that libsndfile reads, streamed as the 16-bit mono PCM that a session takes.

Knows files and samples, nothing of sessions. A file is never held in memory whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from antiphon.exit_codes import UnreadableInput
from protocol.limits import MAX_SAMPLE_RATE, MIN_SAMPLE_RATE

BLOCK_MS = 200
COMMON_RATE = 16_000  # Hz: what the shipped engines hear at
FULL_SCALE = 32_768


class SoundFile:
    """A file that was found to hold sound. `rate` is its own, in Hz; `duration_ms` is what its header says."""

    def __init__(self, path: Path) -> None:
        """Read the header; raises `UnreadableInput`, saying why, when there is no sound to be had."""
        self.path = path
        try:
            with open(path, "rb") as file:
                if not file.read(1):
                    raise UnreadableInput(f"{path}: the file is empty")
            info = soundfile.info(str(path))
        except OSError as error:
            raise UnreadableInput(f"{path}: {(error.strerror or str(error)).lower()}") from None
        except soundfile.LibsndfileError as error:
            raise UnreadableInput(
                f"{path}: no sound file that can be read ({error.error_string.rstrip('.')})"
            ) from None
        if not info.frames:
            raise UnreadableInput(f"{path}: the file has no samples")
        self.rate = int(info.samplerate)
        self.duration_ms = info.frames * 1000 / info.samplerate

    def blocks(self, rate: int) -> Iterator[bytes]:
        """The sound as 16-bit mono PCM at `rate` Hz, channels mixed, in blocks of about `BLOCK_MS`.

        Raises `UnreadableInput` when the file turns out to be damaged further on.
        """
        resampler = soxr.ResampleStream(self.rate, rate, 1, dtype="float32") if rate != self.rate else None
        try:
            with soundfile.SoundFile(str(self.path)) as file:
                size = max(1, self.rate * BLOCK_MS // 1000)
                for block in file.blocks(size, dtype="float32", always_2d=True):
                    mono = block.mean(axis=1, dtype=np.float32)
                    yield _pcm(resampler.resample_chunk(mono) if resampler is not None else mono)
        except soundfile.LibsndfileError as error:
            raise UnreadableInput(f"{self.path}: the file is damaged ({error.error_string.rstrip('.')})") from None
        if resampler is not None:
            yield _pcm(resampler.resample_chunk(np.empty(0, dtype=np.float32), last=True))


def session_rate(files: Sequence[SoundFile]) -> int:
    """The one rate of a session that is sent all these files: theirs, if it is the same and may travel."""
    rates = {file.rate for file in files}
    only = rates.pop() if len(rates) == 1 else COMMON_RATE
    return only if MIN_SAMPLE_RATE <= only <= MAX_SAMPLE_RATE else COMMON_RATE


def _pcm(samples: NDArray[np.float32]) -> bytes:
    # Files of floats may hold anything, also what is no number.
    scaled = np.rint(np.nan_to_num(samples) * FULL_SCALE).clip(-FULL_SCALE, FULL_SCALE - 1)
    return scaled.astype("<i2").tobytes()
