"""How vad streams meet a vad engine: audio is cut into windows, and one call takes every window that is ready.

Batching never waits: after the sockets are drained, whatever is there is the batch.
"""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from protocol.audio import SAMPLE_BYTES
from protocol.limits import NODE_AHEAD_MS
from protocol.node import AudioIn, OpenStream, Speech, Taken, ToNode
from services.engine import VadEngine, VadWindow
from services.runtime.stream import Serving, Stream, Work, engine_failure, sample_rate_of
from services.vad.segmenter import Segmenter

CREDIT_STEP_MS = 500  # how often credit is renewed, in audio time: two small messages a second and stream
_SCALE = np.float32(1 / 32768)


class VadServing(Serving):
    """All vad streams of this node, and which of them have a window ready."""

    takes = (AudioIn,)

    def __init__(self, engine: VadEngine[Any]) -> None:
        self._engine = engine
        self._ready: dict[VadWork, None] = {}  # in the order in which they became ready
        self._again = False

    async def accept(self, stream: Stream, options: Any, opening: OpenStream) -> Work:
        rate = sample_rate_of(self._engine, opening.sample_rate)
        return VadWork(stream, self._engine, options, rate, self._ready)

    def batch(self) -> None:
        """One engine call over all streams that have a window; another round follows if some have more."""
        if not self._ready:
            return
        works = list(self._ready)
        self._ready.clear()
        windows = [VadWindow(work.state, work.next_window()) for work in works]
        try:
            judged = list(zip(works, self._engine.process(windows), strict=True))
        except Exception as error:  # noqa: BLE001  # told to the orchestrator, and logged if it was not expected
            # Nobody can tell whose window it was, nor which states have gone on: all of this call, and no others.
            failure = engine_failure(error)
            for work in works:
                work.stream.fail(failure)
            judged = []
        for work, probability in judged:
            try:
                work.judge(probability)
            except Exception as error:  # noqa: BLE001  # as above
                work.stream.fail(error)
        if self._ready and not self._again:  # audio that came faster than real time: let the heartbeat have its turn
            self._again = True
            asyncio.get_running_loop().call_soon(self._next_round)

    def _next_round(self) -> None:
        self._again = False
        self.batch()


class VadWork(Work):
    """One vad stream: its audio that is no whole window yet, and what has been seen so far."""

    def __init__(
        self, stream: Stream, engine: VadEngine[Any], options: Any, rate: int, ready: dict[VadWork, None]
    ) -> None:
        super().__init__(stream)
        self.state = engine.open(options)
        self._window_bytes = self.state.window * SAMPLE_BYTES
        self._window_ms = self.state.window * 1000 / rate
        self._segmenter = Segmenter(options, self._window_ms)
        self._pending = bytearray()
        self._ready = ready
        self._taken_ms = 0.0
        self._credited_ms = 0.0

    def begin(self) -> None:
        self._credit()

    def take(self, message: ToNode) -> None:
        assert isinstance(message, AudioIn)
        self._pending += message.pcm
        if len(self._pending) >= self._window_bytes:
            self._ready[self] = None

    def next_window(self) -> Any:
        """The oldest window, as float32 in [-1, 1], shape (window,)."""
        samples = np.frombuffer(self._pending, dtype="<i2", count=self.state.window) * _SCALE
        del self._pending[: self._window_bytes]
        return samples

    def judge(self, probability: float) -> None:
        """Turn the window's probability into events, and renew the credit."""
        for event in self._segmenter.feed(probability):
            self.stream.send(Speech(0, 0, 0, event.event, event.at_ms, event.silence_ms))
        self._taken_ms += self._window_ms
        if self._taken_ms - self._credited_ms >= CREDIT_STEP_MS:
            self._credit()
        if len(self._pending) >= self._window_bytes and not self.stream.closed:
            self._ready[self] = None

    def close(self) -> None:
        self._ready.pop(self, None)

    def _credit(self) -> None:
        self._credited_ms = self._taken_ms
        self.stream.send(Taken(0, 0, 0, int(self._taken_ms) + NODE_AHEAD_MS))
