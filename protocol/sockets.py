"""The socket loop: ZeroMQ sockets driven by their `FD` from an asyncio (uvloop) loop.

This is written once, here, and everything that receives a message uses it. `docs/architecture.md` has the measurements
behind it; these are the rules that they gave:

- A reader on the socket's FD drains until EAGAIN, at most `DRAIN_MESSAGES` at once so that others get their turn.
- The FD is edge-triggered: after anything that touches the socket outside its own drain (connect, bind, send), `EVENTS`
  must be looked at once before the loop sleeps, or a message that is already there is never signalled.
- A send never waits. A ROUTER is mandatory, so that a peer that is gone is an answer and not a silent drop.

A socket belongs to the thread of its loop. Handlers are plain functions; an exception in one is logged and the drain
goes on: one bad message must not stop the others.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable

import zmq

from protocol.limits import (
    DRAIN_MESSAGES,
    HANDSHAKE_MS,
    LINGER_MS,
    MAX_SOCKETS,
    SEND_HIGH_WATER_MARK,
)

log = logging.getLogger(__name__)

# As plain numbers: to join two of ZeroMQ's flags costs as much as to copy a frame.
_NOBLOCK = int(zmq.NOBLOCK)
_SNDMORE_NOBLOCK = int(zmq.SNDMORE | zmq.NOBLOCK)
_RCVMORE = int(zmq.RCVMORE)


class Sent(enum.Enum):
    """What became of a message that was handed to a socket."""

    OK = "ok"
    GONE = "gone"  # no such peer is connected
    FULL = "full"  # its queue is full: with credit far below the high-water mark, the peer is broken


def new_context() -> zmq.Context[zmq.Socket[bytes]]:
    """The process's ZeroMQ context: one I/O thread, room for thousands of peers."""
    context = zmq.Context(io_threads=1)
    context.set(zmq.MAX_SOCKETS, MAX_SOCKETS)
    return context


_shared: tuple[int, zmq.Context[zmq.Socket[bytes]]] | None = None


def shared_context() -> zmq.Context[zmq.Socket[bytes]]:
    """One context for all sockets of this process that have no owner to end it; it lives as long as the process."""
    global _shared  # noqa: PLW0603  # a context belongs to a process: a forked child needs its own
    if _shared is None or _shared[0] != os.getpid():
        _shared = (os.getpid(), new_context())
    return _shared[1]


class _LoopSocket(ABC):
    """What both kinds share: options, the reader, the drain and the edge-trigger rule."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], kind: int, drop_bytes: int, high_water_mark: int
    ) -> None:
        self._socket: zmq.Socket[bytes] = context.socket(kind)
        set_option = self._socket.setsockopt
        set_option(zmq.LINGER, 0)
        set_option(zmq.SNDHWM, high_water_mark)
        set_option(zmq.RCVHWM, high_water_mark)
        set_option(zmq.IPV6, 1)
        set_option(zmq.MAXMSGSIZE, drop_bytes)
        set_option(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        set_option(zmq.TCP_KEEPALIVE, 1)
        # The C function itself: the method around it serves kinds of sockets that are not used here.
        self._hand_over = super(zmq.Socket, self._socket).send
        self._loop: asyncio.AbstractEventLoop | None = None
        self._fd = -1
        self._draining = False
        self._check_due = False  # EVENTS will be looked at in this turn of the loop
        self._more_due = False  # the rest of a long drain will be taken in the next turn
        self.on_drained: Callable[[], None] = _nothing  # called after each drain: the place to work on a batch

    def start(self) -> None:
        """Read messages on the running loop from now on."""
        self._loop = asyncio.get_running_loop()
        self._fd = int(self._socket.getsockopt(zmq.FD))
        self._loop.add_reader(self._fd, self._drain)
        self._touched()

    @property
    def closed(self) -> bool:
        """Nothing may be sent any more."""
        return bool(self._socket.closed)

    def close(self, linger_ms: int = 0) -> None:
        """Close; what was sent still has `linger_ms` to leave. Safe to repeat."""
        if self._socket.closed:
            return
        if self._loop is not None:
            self._loop.remove_reader(self._fd)
        self._socket.close(linger_ms)

    def _drain(self) -> None:
        # With the rest of a drain due, a second one now would double this socket's share of the loop, and so on.
        if self._more_due or self._socket.closed:
            return
        self._draining = True
        try:
            more = self._receive(DRAIN_MESSAGES)
        finally:
            self._draining = False
        if more and self._loop is not None:  # before a handler that may fail: nobody would wake us for the rest
            self._more_due = True
            self._loop.call_soon(self._go_on)
        self.on_drained()

    def _go_on(self) -> None:
        self._more_due = False
        self._drain()

    @abstractmethod
    def _receive(self, most: int) -> bool:
        """Take up to `most` messages; true if there may be more."""

    def _touched(self) -> None:
        """The edge-trigger rule: look at EVENTS before the loop sleeps again."""
        if not (self._draining or self._check_due or self._more_due) and self._loop is not None:
            self._check_due = True
            self._loop.call_soon(self._check)

    def _check(self) -> None:
        self._check_due = False
        if not self._socket.closed and int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self._drain()

    def _drop_rest(self) -> int:
        """Throw away further frames of the current message; returns how many there were."""
        dropped = 0
        while self._socket.getsockopt(zmq.RCVMORE):
            self._socket.recv(_NOBLOCK)
            dropped += 1
        return dropped


class RouterSocket(_LoopSocket):
    """A bound socket with many peers. `on_message(identity, blob)`; a message is exactly one frame."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        on_message: Callable[[bytes, bytes], None],
        *,
        drop_bytes: int,
        on_bad_frames: Callable[[bytes, int], None],
        high_water_mark: int = SEND_HIGH_WATER_MARK,
    ) -> None:
        super().__init__(context, zmq.ROUTER, drop_bytes, high_water_mark)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._on_message = on_message
        self._on_bad_frames = on_bad_frames

    def bind(self, endpoint: str) -> str:
        """Bind and return the address as bound (with the port that was given for `:*`)."""
        self._socket.bind(endpoint)
        self._touched()
        return self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def send(self, identity: bytes, blob: bytes) -> Sent:
        """Hand over without waiting."""
        try:
            self._hand_over(identity, _SNDMORE_NOBLOCK)
            self._hand_over(blob, _NOBLOCK)
        except zmq.Again:
            return Sent.FULL
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                return Sent.GONE
            raise
        if not (self._draining or self._check_due):
            self._touched()
        return Sent.OK

    def _receive(self, most: int) -> bool:
        socket, on_message = self._socket, self._on_message
        receive = socket.recv
        for _ in range(most):
            try:
                identity = receive(_NOBLOCK)
            except zmq.Again:
                return False
            frame = receive(_NOBLOCK, False, False)  # there is one: a peer cannot send less than an empty frame
            blob = frame.bytes
            try:
                if frame.more:  # costs half of what asking the socket does
                    self._on_bad_frames(identity, 1 + self._drop_rest())
                else:
                    on_message(identity, blob)
            except Exception:
                log.exception("a handler failed on a message of %d bytes from %r", len(blob), identity)
            if socket.closed:
                return False
        return True


class DealerSocket(_LoopSocket):
    """A connecting socket with one peer. `on_message(blob)`.

    Queues nothing while it is not connected (`IMMEDIATE`), so that a restarted peer is not sent what was meant for the
    one before.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        identity: bytes,
        on_message: Callable[[bytes], None],
        *,
        drop_bytes: int,
        high_water_mark: int = SEND_HIGH_WATER_MARK,
    ) -> None:
        super().__init__(context, zmq.DEALER, drop_bytes, high_water_mark)
        self._socket.setsockopt(zmq.IDENTITY, identity)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 50)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1_000)
        self._on_message = on_message

    def connect(self, endpoint: str) -> None:
        """Start connecting, and connect again by itself whenever the peer is back."""
        self._socket.connect(endpoint)
        self._touched()

    def send(self, blob: bytes) -> Sent:
        """Hand over without waiting. `GONE`: not connected now."""
        try:
            self._hand_over(blob, _NOBLOCK)
        except zmq.Again:
            return Sent.GONE
        if not (self._draining or self._check_due):
            self._touched()
        return Sent.OK

    def close_politely(self) -> None:
        """Close, giving the last messages `LINGER_MS` to leave."""
        self.close(LINGER_MS)

    def _receive(self, most: int) -> bool:
        socket, on_message = self._socket, self._on_message
        for _ in range(most):
            try:
                blob = socket.recv(_NOBLOCK)
            except zmq.Again:
                return False
            try:
                if socket.getsockopt(_RCVMORE):
                    self._drop_rest()
                    log.warning("dropped a message of more than one frame")
                else:
                    on_message(blob)
            except Exception:
                log.exception("a handler failed on a message of %d bytes", len(blob))
            if socket.closed:
                return False
        return True


def _nothing() -> None:
    """The `on_drained` of sockets that work message by message."""
