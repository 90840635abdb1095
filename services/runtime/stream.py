"""A stream as a node sees it: one piece of work for one session, and how its answers get back.

What the work is, the service's own `serving.py` says. This room knows no engine.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, ClassVar

from protocol.errors import AntiphonError
from protocol.node import FromNode, NodeMessage, OpenStream, StreamDone, StreamError, ToNode
from services.engine import Engine

if TYPE_CHECKING:
    from services.runtime.link import Link

log = logging.getLogger(__name__)


class Stream:
    """The routing of one stream: fills in the fields that every message starts with, and counts them."""

    __slots__ = ("_link", "_sequence", "generation", "id", "session")

    def __init__(self, link: Link, opening: OpenStream) -> None:
        self._link = link
        self._sequence = 0
        self.id = opening.stream
        self.generation = opening.generation
        self.session = opening.session

    def send(self, message: FromNode) -> None:
        """Send, with this stream's number, generation and next sequence number filled in."""
        message.stream = self.id
        message.generation = self.generation
        message.sequence = self._sequence
        self._sequence += 1
        self._link.send(message)

    def fail(self, error: BaseException) -> None:
        """Report why the stream is gone, and drop it."""
        if isinstance(error, AntiphonError):
            report = StreamError(0, 0, 0, error.code, error.category, str(error))
        else:
            log.error("stream %d of session %s failed", self.id, self.session, exc_info=error)
            kind = type(error).__name__
            report = StreamError(
                0, 0, 0, "engine", "fatal", f"{self._link.node_name}: the engine failed: {kind}: {error}"
            )
        self.send(report)
        self._link.drop(self.id)

    def done(self) -> None:
        """Report that all has been sent, and drop the stream."""
        self.send(StreamDone(0, 0, 0))
        self._link.drop(self.id)


class Work(ABC):
    """What a service does for one stream. Made when the stream is accepted; its messages come in order."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    @abstractmethod
    def take(self, message: ToNode) -> None:
        """A message for this stream. Must not block; an exception fails the stream."""

    @abstractmethod
    def close(self) -> None:
        """The stream is dropped: stop all work at once. Called exactly once."""


class TaskWork(Work):
    """Work that runs in a task of its own: messages wait in `inbox` until `run()` asks for them.

    Closing cancels the task; `run()` gives back what it holds in `finally`.
    """

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        self._inbox: deque[ToNode] = deque()
        self._arrived = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._guard(self.run()))

    @abstractmethod
    async def run(self) -> None:
        """The work. When it returns, the stream is over; what it raises fails the stream."""

    async def next_message(self) -> ToNode:
        """The next message for this stream, in order. Waits; safe to cancel."""
        while not self._inbox:
            self._arrived.clear()
            await self._arrived.wait()
        return self._inbox.popleft()

    def take(self, message: ToNode) -> None:
        self._inbox.append(message)
        self._arrived.set()

    def close(self) -> None:
        self._task.cancel()

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001  # told to the orchestrator, and logged if it was not expected
            self.stream.fail(error)


class Serving(ABC):
    """How the streams of one service meet its engine; one per node process."""

    takes: ClassVar[tuple[type[NodeMessage], ...]]  # the kinds that a stream of this service may be sent

    @abstractmethod
    async def accept(self, stream: Stream, options: Any, opening: OpenStream) -> Work:
        """Start the work of a stream whose options are checked. What it raises refuses the stream."""

    def batch(self) -> None:  # noqa: B027  # most services work message by message
        """Everything that has arrived has been handed out: work on what is ready, over all streams."""

    def sample_rate(self, options: Any) -> int:
        """Rate in Hz of the audio that a stream with these options makes; 0 if it makes none."""
        return 0


def sample_rate_of(engine: Engine[Any], asked: int) -> int:
    """The rate that a vad or stt stream was opened with; raises `AntiphonError` if the engine can't take it."""
    if asked not in engine.sample_rates:
        raise AntiphonError(f"a stream at {asked} Hz was asked for; this engine takes {list(engine.sample_rates)} Hz")
    return asked
