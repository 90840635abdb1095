"""A stream as the orchestrator sees it: work that a node does for a session, and who hears of it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from protocol.engine import EngineSpec
from protocol.errors import AntiphonError, NodeLost, Overloaded, RemoteError, Unavailable
from protocol.node import CloseStream, FromNode, OpenStream, StreamDone, StreamError, StreamOpened, ToNode

if TYPE_CHECKING:
    from orchestrator.nodes import Node

MAX_MOVES = 3  # nodes that may refuse a stream, each faster filled than told, before its handler hears of it
REFUSED_BY_NODE = (Overloaded.code, Unavailable.code)  # it is full, or drains: not what was asked is wrong
OPEN_TIMEOUT_S = 2.0  # a live node answers in about a millisecond


class StreamHandler(Protocol):
    """Who a stream belongs to. Called from the socket's drain: must be quick and must not block."""

    def on_stream_message(self, stream: NodeStream, message: FromNode) -> None:
        """The node said something (never `StreamError`)."""

    def on_stream_failed(self, stream: NodeStream, error: AntiphonError) -> None:
        """The stream is gone: the node reported an error, or is lost (`NodeLost`)."""


class Pool(Protocol):
    """What opens streams: `NodePool`, or another that does as it does."""

    def open(
        self,
        spec: EngineSpec,
        handler: StreamHandler,
        *,
        session: str,
        generation: int,
        sample_rate: int = 0,
        probe: bool = False,
    ) -> NodeStream:
        """See `NodePool.open`."""

    def sample_rate(self, spec: EngineSpec, client_rate: int) -> int:
        """See `NodePool.sample_rate`."""

    def finds_speech(self, spec: EngineSpec) -> bool:
        """See `NodePool.finds_speech`."""


class NodeStream:
    """One open stream. `close()` it when its work is no longer wanted."""

    __slots__ = (
        "_moves",
        "_opening",
        "_received",
        "_sequence",
        "closed",
        "generation",
        "handler",
        "id",
        "node",
        "probe",
        "sample_rate",
        "session",
        "spec",
    )

    def __init__(self, stream: int, node: Node, opening: OpenStream, generation: int, handler: StreamHandler) -> None:
        self.id = stream
        self.node = node
        self.spec: EngineSpec = opening.spec
        self.session = opening.session
        self.probe = opening.probe
        self.generation = generation
        self.handler = handler
        self.sample_rate = 0  # of the audio that a tts stream makes; known once it is opened
        self.closed = False
        self._opening = opening
        self._moves = 0
        self._sequence = 0
        self._received = 0

    def open(self) -> None:
        """Ask the node for the stream."""
        self._sequence = self._received = 0
        self.node.streams[self.id] = self
        self.send(self._opening)

    def send(self, message: ToNode) -> None:
        """Send, with the routing fields filled in. On a stream that is gone this does nothing: its handler was told."""
        if self.closed:
            return
        message.stream = self.id
        message.generation = self.generation
        message.sequence = self._sequence
        self._sequence += 1
        self.node.send(message)

    def close(self) -> None:
        """Drop the stream here and at its node. Safe to repeat; the handler hears nothing more."""
        if not self.closed:
            self.send(CloseStream(0, 0, 0))
            self.forget()

    def forget(self) -> None:
        """Drop the stream here: the node has ended it, or is gone."""
        self.closed = True
        self.node.streams.pop(self.id, None)

    def receive(self, message: FromNode) -> None:
        """Hand a message of the node to the handler.

        A message that was lost on the way (the connection broke, and healed at once) ends the stream as `NodeLost`:
        audio or text with a hole must not be taken for whole.
        """
        if isinstance(message, StreamError):
            self._on_error(message)
            return
        if message.sequence != self._received:
            self.send(CloseStream(0, 0, 0))
            self.fail(NodeLost(f"a message of {self.node.name} ({self.spec}) was lost on its way here"))
            return
        self._received += 1
        if isinstance(message, StreamOpened):
            self.sample_rate = message.sample_rate
        elif isinstance(message, StreamDone):
            self.forget()
        self.handler.on_stream_message(self, message)

    def _on_error(self, message: StreamError) -> None:
        error: AntiphonError = RemoteError(message.code, message.category, message.message)
        untouched = not self._received and self._sequence == 1  # only the opening was sent
        if message.code in REFUSED_BY_NODE and untouched and self._moves < MAX_MOVES:
            self._moves += 1
            try:
                self.node.move(self)
                return
            except Unavailable as none_left:
                error = none_left
        self.fail(error)

    def fail(self, error: AntiphonError) -> None:
        """The stream is gone; tell the handler."""
        if not self.closed:
            self.forget()
            self.handler.on_stream_failed(self, error)

    def lose(self) -> None:
        """The node is gone."""
        self.fail(NodeLost(f"{self.node.name} ({self.spec}) was lost while it worked"))


class StreamQueue:
    """A handler for code that awaits: the stream's messages in order, its failure raised.

    `async for message in queue` ends with `StreamDone`. Use it as a context manager: leaving closes the stream.
    """

    def __init__(self) -> None:
        self._messages: deque[FromNode] = deque()
        self._error: BaseException | None = None
        self._arrived = asyncio.Event()
        self._opened = False
        self.stream: NodeStream | None = None

    def __enter__(self) -> StreamQueue:
        return self

    def __exit__(self, *_: object) -> None:
        if self.stream is not None:
            self.stream.close()

    def on_stream_message(self, stream: NodeStream, message: FromNode) -> None:
        if isinstance(message, StreamOpened):
            self._opened = True
        else:
            self._messages.append(message)
        self._arrived.set()

    def on_stream_failed(self, stream: NodeStream, error: AntiphonError) -> None:
        self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Raise this to whoever waits: what the stream is fed with has failed."""
        self._error = error
        self._arrived.set()

    async def opened(self, open_stream: Callable[[StreamQueue], NodeStream]) -> NodeStream:
        """Open the stream and wait until its node has accepted it.

        Raises what the node answered, and `NodeLost` when it does not answer within `OPEN_TIMEOUT_S`.
        """
        self.stream = stream = open_stream(self)
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                while not self._opened:
                    await self._wait()
        except TimeoutError:
            stream.close()
            raise NodeLost(f"{stream.node.name} ({stream.spec}) did not answer within {OPEN_TIMEOUT_S:g} s") from None
        return stream

    def __aiter__(self) -> StreamQueue:
        return self

    async def __anext__(self) -> FromNode:
        while not self._messages:
            await self._wait()
        message = self._messages.popleft()
        if isinstance(message, StreamDone):
            raise StopAsyncIteration
        return message

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        self._arrived.clear()
        await self._arrived.wait()
        if self._error is not None and not self._messages:
            raise self._error
