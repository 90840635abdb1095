"""A node's connection to one orchestrator: registering, heartbeats, leases, and the streams that it opened.

A node has one link for each orchestrator. Slots are the node's: all links share them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import zmq

from protocol.errors import AntiphonError, Overloaded, ProtocolError, Unavailable
from protocol.ids import socket_identity
from protocol.limits import LEASE_MS, NODE_DROP_BYTES, NODE_HIGH_WATER_MARK, PROTOCOL_VERSION
from protocol.node import (
    FROM_NODE,
    TO_NODE,
    Beat,
    CloseStream,
    FromNode,
    Goodbye,
    Heartbeat,
    OpenStream,
    Refused,
    Register,
    StreamOpened,
    ToNode,
    Welcome,
)
from protocol.sockets import DealerSocket, Sent
from services.runtime.stream import Stream, Work, cancelled_itself

if TYPE_CHECKING:
    from services.runtime.node import Node

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Opening:
    """A stream that is being accepted, and what came for it meanwhile."""

    stream: Stream
    probe: bool
    waiting: list[ToNode] = field(default_factory=list)
    task: asyncio.Task[None] | None = None


class Link:
    """One DEALER to one orchestrator's nodes socket. Reconnects and registers again by itself."""

    def __init__(self, node: Node, context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> None:
        self.endpoint = endpoint
        self.node_name = node.name
        self.refused_version = ""  # why the orchestrator will never take this node; empty: it may
        self._node = node
        self._context = context
        self._dials = 0
        self._socket = self._dial()
        self._works: dict[int, Work] = {}
        self._opening: dict[int, _Opening] = {}
        self._unsent: list[FromNode] = []  # last messages of streams, while the orchestrator takes none
        self._epoch = ""  # of the orchestrator that has welcomed us
        self._heard = self._dialled = time.monotonic()
        self._sequence = 0
        self._complained = ""

    @property
    def used(self) -> int:
        """Slots that this orchestrator's streams take."""
        return len(self._works) + sum(not opening.probe for opening in self._opening.values())

    @property
    def dead(self) -> bool:
        """Nobody has answered here for as long as a lease."""
        return time.monotonic() - self._heard > LEASE_MS / 1000

    def send(self, message: FromNode) -> bool:
        """Send; false when the orchestrator is not there, or takes nothing. Raises `TooLarge`."""
        return self._socket.send(FROM_NODE.encode(message)) is Sent.OK

    def start_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run work in a task that the node awaits before it leaves."""
        return self._node.start_task(work)

    def beat(self, lag_ms: int) -> None:
        """Say that this node lives, or register; and free what an orchestrator that is gone left behind."""
        if time.monotonic() - max(self._heard, self._dialled) > LEASE_MS / 1000:
            self._start_over()
        if self._unsent:
            self._unsent = [message for message in self._unsent if not self.send(message)]
        if self._epoch:
            node = self._node
            self._send_control(Heartbeat(0, 0, 0, node.state, node.used, lag_ms))
        else:
            self._register()

    def end(self, stream: int, last: FromNode) -> None:
        """Send a stream's last message, if need be with a later heartbeat, and drop the stream."""
        if not self.send(last):
            self._unsent.append(last)
        self.drop(stream)

    def drop(self, stream: int) -> None:
        """Forget a stream and stop its work. Safe to repeat."""
        opening, work = self._opening.pop(stream, None), self._works.pop(stream, None)
        if opening is not None:
            opening.stream.closed = True
            if opening.task is not None:
                opening.task.cancel()
        if work is not None:
            work.stream.closed = True
            work.close()
        if opening is not None or work is not None:
            self._node.stream_ended()

    def close(self) -> None:
        """Stop all work and take leave."""
        self._drop_all()
        if self._epoch:
            self._send_control(Goodbye(0, 0, 0))
        self._socket.close_politely()

    def _dial(self) -> DealerSocket:
        """A new socket: connects, and connects again, by itself. No two of this process share an identity."""
        identity = socket_identity(self.node_name, f"{self._node.epoch}.{self._dials}")
        self._dials += 1
        dealer = DealerSocket(
            self._context,
            identity,
            self._on_message,
            drop_bytes=NODE_DROP_BYTES,
            high_water_mark=NODE_HIGH_WATER_MARK,
        )
        dealer.on_drained = self._node.serving.batch
        try:
            dealer.connect(self.endpoint)
            dealer.start()
        except BaseException:
            dealer.close()
            raise
        return dealer

    def _start_over(self) -> None:
        """The orchestrator is gone, or the way to it is cut: free what it left behind, and dial once more.

        A connection that was cut without a word may stay dead for minutes after the network has healed, and while the
        other side holds it, nothing would be heard from a second one with the same identity.
        """
        if self._epoch:
            log.warning("%s has been silent for %d ms: freeing its %d streams", self.endpoint, LEASE_MS, self.used)
        self._drop_all()
        self._epoch = ""
        self._dialled = time.monotonic()
        self._socket.close()
        self._socket = self._dial()

    def _register(self) -> None:
        node = self._node
        self._send_control(
            Register(
                0, 0, 0, node.service, node.engine_name, node.name, node.epoch, os.getpid(), socket.gethostname(),
                node.slots, node.state, list(node.engine.sample_rates),
                finds_speech=getattr(node.engine, "finds_speech", False),
            )
        )  # fmt: skip

    def _send_control(self, message: FromNode) -> None:
        message.sequence = self._sequence
        self._sequence += 1
        self.send(message)

    def _on_message(self, blob: bytes) -> None:
        self._heard = time.monotonic()
        try:
            message = TO_NODE.decode(blob)
        except ProtocolError as error:
            log.warning("%s sent a message that was dropped: %s", self.endpoint, error)
            return
        work = self._works.get(message.stream)
        if work is not None:
            self._give(work, message)
        elif isinstance(message, OpenStream):
            self._open(message)
        elif message.stream in self._opening and not isinstance(message, CloseStream):
            self._opening[message.stream].waiting.append(message)
        elif message.stream == 0:
            self._on_control(message)
        elif isinstance(message, CloseStream):
            self.drop(message.stream)
        # else: for a stream that has ended here; the orchestrator hears of that by itself

    def _give(self, work: Work, message: ToNode) -> None:
        if isinstance(message, CloseStream):
            self.drop(message.stream)
            return
        try:
            work.stream.check(message)
            if not isinstance(message, self._node.serving.takes):
                raise ProtocolError(f"a {self._node.service} stream takes no {type(message).__name__} message")
            work.take(message)
        except Exception as error:  # noqa: BLE001  # told to the orchestrator, and logged if it was not expected
            work.stream.fail(error)

    def _on_control(self, message: ToNode) -> None:
        if isinstance(message, Welcome):
            self._welcome(message)
        elif isinstance(message, Refused):
            if message.code == "unknown_node":  # a new start of the orchestrator: it knows nothing of us
                self._drop_all()
                self._epoch = ""
                self._register()
                return
            if message.message != self._complained:
                log.error("%s refuses this node: %s", self.endpoint, message.message)
                self._complained = message.message
            if message.code == "version":
                self._refuse_version(message.message)
        elif not isinstance(message, Beat):
            log.warning("%s sent a %s without a stream", self.endpoint, type(message).__name__)

    def _welcome(self, message: Welcome) -> None:
        if message.version[0] != PROTOCOL_VERSION[0]:
            self._refuse_version(
                f"{self.endpoint} speaks protocol version {message.version[0]}, this node {PROTOCOL_VERSION[0]}: "
                "install the same release on both"
            )
            return
        if self._epoch and self._epoch != message.epoch:
            self._drop_all()
        if self._epoch != message.epoch:
            log.info("registered at %s (%s)", message.orchestrator, self.endpoint)
        self._epoch = message.epoch
        self._complained = self.refused_version = ""

    def _refuse_version(self, reason: str) -> None:
        self.refused_version = reason
        self._node.consider_giving_up()

    def _open(self, opening: OpenStream) -> None:
        stream = Stream(self, opening)
        node = self._node
        try:
            if node.state != "ready":
                raise Unavailable(f"{node.name} is {node.state} and takes no new streams")
            if opening.spec.engine != node.engine_name or opening.spec.service != node.service:
                raise Unavailable(f"{node.name} serves {node.service}/{node.engine_name}, not {opening.spec}")
            if not opening.probe and node.used >= node.slots:
                raise Overloaded(f"{node.name} has all of its {node.slots} slots taken")
            options = node.engine.options_type.from_wire(opening.spec.options)
        except AntiphonError as error:
            stream.fail(error)
            return
        self._opening[opening.stream] = accepted = _Opening(stream, opening.probe)
        accepted.task = self.start_task(self._accept(accepted, options, opening))

    async def _accept(self, accepted: _Opening, options: object, opening: OpenStream) -> None:
        node, stream = self._node, accepted.stream
        work: Work | None = None
        try:
            await node.engine.check(options)
            rate = node.serving.sample_rate(options)
            if not opening.probe:
                work = await node.serving.accept(stream, options, opening)
        except asyncio.CancelledError:
            if stream.closed:
                raise
            stream.fail(cancelled_itself())
            return
        except Exception as error:  # noqa: BLE001  # told to the orchestrator, and logged if it was not expected
            stream.fail(error)
            return
        if work is None:
            stream.send(StreamOpened(0, 0, 0, rate))
            self.drop(stream.id)
        elif stream.closed:  # and the engine has swallowed the cancellation
            work.close()
        else:
            del self._opening[stream.id]
            self._works[stream.id] = work
            stream.send(StreamOpened(0, 0, 0, rate))
            self._begin(work, accepted.waiting)

    def _begin(self, work: Work, waiting: list[ToNode]) -> None:
        """An accepted stream starts to work, on what has come for it meanwhile."""
        work.begin()
        for message in waiting:
            if not work.stream.closed:
                self._give(work, message)
        self._node.serving.batch()

    def _drop_all(self) -> None:
        self._unsent.clear()
        for stream in [*self._works, *self._opening]:
            self.drop(stream)
