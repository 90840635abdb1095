"""One stream as its simulated node sees it: messages come in, answers go out with the numbers that a node gives them.

Nothing is answered in the middle of being asked: all goes through the loop, and so in virtual time.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from protocol.errors import AntiphonError, EngineError, ProtocolError
from protocol.node import FromNode, NodeMessage, OpenStream, StreamDone, StreamError, StreamOpened, ToNode


@dataclass(frozen=True, slots=True)
class Desk:
    """Where the work of a stream hands things in."""

    post: Callable[[FromNode], None]  # brings a message to the orchestrator, after those that were posted before
    end: Callable[[], None]  # the stream has sent its last message
    complain: Callable[[AntiphonError], None]  # the test is to hear of this: it is to be mended, or the agent


class Work(ABC):
    """What a simulated service does for one stream."""

    takes: ClassVar[tuple[type[NodeMessage], ...]]  # the kinds that a stream of this service may be sent

    def __init__(self, opening: OpenStream, desk: Desk) -> None:
        self.opening = opening
        self.closed = False
        self._desk = desk
        self._sequence = 0
        self._waiting: set[asyncio.Handle] = set()

    @abstractmethod
    def take(self, message: ToNode) -> None:
        """A message for this stream. What is raised fails it."""

    def begin(self) -> None:  # noqa: B027  # most work has nothing to say before it is asked
        """The stream is accepted: the place to send a first message."""

    def accept(self, sample_rate: int) -> None:
        """Say that the stream is open. `sample_rate`: of the audio that it makes, in Hz, or 0."""
        self.send(StreamOpened(0, 0, 0, sample_rate))
        if not self.opening.probe:
            self.begin()

    def receive(self, message: ToNode) -> None:
        """The node has this for the stream."""
        self.handle(lambda: self._receive(message))

    def handle(self, action: Callable[[], None]) -> None:
        """Do a part of the work; if it raises, the stream fails, and the test hears of what it must mend."""
        if self.closed:
            return
        try:
            action()
        except AntiphonError as error:
            self._desk.complain(error)
            self.fail(error)
        except Exception as error:  # noqa: BLE001  # of a function in the test's script
            problem = EngineError(f"the simulated {self.opening.spec.service} failed: {error!r}", category="fatal")
            problem.__cause__ = error
            self._desk.complain(problem)
            self.fail(problem)

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do this after so long, unless the stream is closed by then. Without delay: after what is waiting already."""

        def act() -> None:
            self._waiting.discard(handle)
            self.handle(action)

        loop = asyncio.get_running_loop()
        handle: asyncio.Handle = loop.call_later(delay_s, act) if delay_s > 0 else loop.call_soon(act)
        self._waiting.add(handle)

    def play(self, actions: Iterator[tuple[float, Callable[[], None]]]) -> None:
        """Do one after the other, each so many seconds after the one before it."""
        following = next(actions, None)
        if following is None:
            return
        delay_s, action = following

        def go_on() -> None:
            action()
            self.play(actions)

        self.later(delay_s, go_on)

    def send(self, message: FromNode) -> None:
        """Send, with the routing fields filled in. On a stream that is closed this does nothing."""
        if self.closed:
            return
        message.stream, message.generation = self.opening.stream, self.opening.generation
        message.sequence = self._sequence
        self._sequence += 1
        self._desk.post(message)

    def fail(self, error: AntiphonError) -> None:
        """Report why the stream is gone, and drop it."""
        self._end(StreamError(0, 0, 0, error.code, error.category, str(error)))

    def done(self) -> None:
        """Report that all has been sent, and drop the stream."""
        self._end(StreamDone(0, 0, 0))

    def close(self) -> None:
        """The stream is dropped: stop all work. Safe to repeat."""
        self.closed = True
        for handle in self._waiting:
            handle.cancel()
        self._waiting.clear()

    def _receive(self, message: ToNode) -> None:
        if not isinstance(message, self.takes):
            raise ProtocolError(f"a {self.opening.spec.service} stream takes no {type(message).__name__} message")
        self.take(message)

    def _end(self, last: StreamError | StreamDone) -> None:
        if not self.closed:
            self.send(last)
            self.close()
            self._desk.end()
