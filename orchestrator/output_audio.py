"""The agent's audio on its way out: from an engine's rate to the client's, and cut into frames. Sans I/O."""

from __future__ import annotations

import numpy as np
import soxr

from protocol.audio import AudioFormat, AudioFrame


class OutputAudio:
    """Makes frames of the client's format from frames of any rate. One for each reply."""

    def __init__(self, client: AudioFormat) -> None:
        self._client = client
        self._frame = client.frame_bytes()
        self._rate = 0
        self._resampler: soxr.ResampleStream | None = None
        self._pending = bytearray()

    def push(self, frame: AudioFrame) -> list[bytes]:
        """The whole frames that are ready after this one."""
        if frame.sample_rate != self._rate:
            self._change_rate(frame.sample_rate)
        pcm = frame.pcm
        if self._resampler is not None:
            pcm = self._resampler.resample_chunk(np.frombuffer(pcm, dtype="<i2")).tobytes()
        self._pending += pcm
        return self._cut()

    def flush(self) -> list[bytes]:
        """What is left: whole frames, and a last one that may be shorter."""
        self._change_rate(self._client.sample_rate)
        frames = self._cut()
        if self._pending:
            frames.append(bytes(self._pending))
            self._pending.clear()
        return frames

    def _change_rate(self, rate: int) -> None:
        if self._resampler is not None:  # it holds back some 20 ms
            self._pending += self._resampler.resample_chunk(np.empty(0, dtype=np.int16), last=True).tobytes()
        same = rate == self._client.sample_rate
        self._rate = rate
        self._resampler = (
            None if same else soxr.ResampleStream(rate, self._client.sample_rate, 1, dtype="int16", quality="HQ")
        )

    def _cut(self) -> list[bytes]:
        frames = []
        while len(self._pending) >= self._frame:
            frames.append(bytes(self._pending[: self._frame]))
            del self._pending[: self._frame]
        return frames
