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

from protocol.errors import AntiphonError, EngineError, Unavailable
from protocol.node import FromNode, NodeMessage, OpenStream, StreamDone, StreamError, ToNode
from services.engine import Engine

if TYPE_CHECKING:
    from services.runtime.link import Link

log = logging.getLogger(__name__)

RETRY_S = 0.01  # between two tries to hand over a message
MAX_SENTENCE = 2_000  # characters of an error that travel; an engine's may hold a whole page


class Stream:
    """The routing of one stream: fills in the fields that every message starts with, and counts them."""

    __slots__ = ("_link", "_sequence", "_taken", "closed", "generation", "id", "session")

    def __init__(self, link: Link, opening: OpenStream) -> None:
        self._link = link
        self._sequence = 0
        self._taken = opening.sequence
        self.closed = False  # dropped: nobody hears of it any more
        self.id = opening.stream
        self.generation = opening.generation
        self.session = opening.session

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run work of this stream in a task that the node awaits before it leaves."""
        return self._link.start_task(work)

    def check(self, message: ToNode) -> None:
        """Raise `Unavailable` when a message before this one was lost: a stream with a hole must not go on."""
        self._taken += 1
        if message.sequence != self._taken:
            raise Unavailable(
                f"{self._link.node_name}: message {self._taken} of the stream was lost on its way here; "
                f"{message.sequence} came instead"
            )

    def send(self, message: FromNode) -> None:
        """Send, with the routing fields filled in. On a stream that was dropped this does nothing.

        A message that cannot be handed over leaves a hole: then the stream fails.
        """
        if self.closed:
            return
        if not self._link.send(self._route(message)):
            self.fail(Unavailable(f"{self._link.node_name}: the orchestrator was not taking this stream's messages"))

    async def deliver(self, message: FromNode) -> None:
        """As `send`, for what comes in bursts: waits while the orchestrator takes no messages, until the lease ends.

        All slots of a fast tts engine together may run further ahead than a socket's queue is long.
        """
        if not self.closed:
            self._route(message)
            while not (self._link.send(message) or self.closed):  # noqa: ASYNC110  # ZeroMQ gives no sign
                await asyncio.sleep(RETRY_S)

    def fail(self, error: BaseException) -> None:
        """Report why the stream is gone, and drop it. Safe to repeat."""
        failure = engine_failure(error)
        self._end(StreamError(0, 0, 0, failure.code, failure.category, _sentence(failure)))

    def done(self) -> None:
        """Report that all has been sent, and drop the stream."""
        self._end(StreamDone(0, 0, 0))

    def _end(self, last: StreamError | StreamDone) -> None:
        if not self.closed:
            self._link.end(self.id, self._route(last))

    def _route(self, message: FromNode) -> FromNode:
        message.stream = self.id
        message.generation = self.generation
        message.sequence = self._sequence
        self._sequence += 1
        return message


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

    def begin(self) -> None:  # noqa: B027  # most work has nothing to say before it is asked
        """The orchestrator was told that the stream is open: the place to send a first message."""


class TaskWork(Work):
    """Work that runs in a task of its own: messages wait in `inbox` until `run()` asks for them.

    Closing cancels the task; what the stream holds in the engine is given back in `release()`.
    """

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        self._inbox: deque[ToNode] = deque()
        self._arrived = asyncio.Event()
        self._running = False
        self._task = stream.start(self._guard())

    @abstractmethod
    async def run(self) -> None:
        """The work. When it returns, the stream is over; what it raises fails the stream."""

    async def release(self) -> None:  # most streams hold nothing
        """Give back what the stream holds in the engine. Called once, also when `run()` never began."""

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
        if self._running:  # a task that is cancelled before its first step would never come to `release()`
            self._task.cancel()

    async def _guard(self) -> None:
        self._running = True
        try:
            try:
                if not self.stream.closed:
                    await self.run()
            finally:
                await self.release()
        except asyncio.CancelledError:
            if self.stream.closed:
                raise
            self.stream.fail(cancelled_itself())
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


def cancelled_itself() -> EngineError:
    """What to report when an engine's await ended as cancelled though nobody had closed the stream."""
    return EngineError("the engine's own work was cancelled before it had answered")


def engine_failure(error: BaseException) -> AntiphonError:
    """The error to report: itself, or, with its traceback in the log, a fatal one for what nobody expected."""
    if isinstance(error, AntiphonError):
        return error
    log.error("the engine failed", exc_info=error)
    return EngineError(f"the engine failed: {type(error).__name__}: {error}", category="fatal")


def _sentence(error: AntiphonError) -> str:
    """An error's text as it can travel: not too long, and without halves of characters (from file names, say)."""
    return str(error)[:MAX_SENTENCE].encode(errors="replace").decode()
