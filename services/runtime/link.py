"""A node's connection to one orchestrator: registering, heartbeats, leases, and the streams that it opened.

A node has one link for each orchestrator. Slots are the node's: all links share them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from typing import TYPE_CHECKING

import zmq

from protocol.errors import AntiphonError, Overloaded, ProtocolError, Unavailable
from protocol.ids import socket_identity
from protocol.limits import LEASE_MS, NODE_DROP_BYTES, PROTOCOL_VERSION
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
from services.runtime.stream import Stream, Work

if TYPE_CHECKING:
    from services.runtime.node import Node

log = logging.getLogger(__name__)


class Link:
    """One DEALER to one orchestrator's nodes socket. Reconnects and registers again by itself."""

    def __init__(self, node: Node, context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> None:
        self.endpoint = endpoint
        self.node_name = node.name
        self._node = node
        self._socket = DealerSocket(
            context, socket_identity(node.name, node.epoch), self._on_message, drop_bytes=NODE_DROP_BYTES
        )
        self._socket.on_drained = node.serving.batch
        self._works: dict[int, Work] = {}
        self._opening: dict[int, list[ToNode]] = {}  # streams that are being accepted, and what came for them
        self._tasks: set[asyncio.Task[None]] = set()
        self._epoch = ""  # of the orchestrator that has welcomed us
        self._heard = time.monotonic()
        self._sequence = 0
        self._complained = ""

    @property
    def used(self) -> int:
        """Slots that this orchestrator's streams take."""
        return len(self._works) + len(self._opening)

    def start(self) -> None:
        """Dial, and register as soon as somebody answers."""
        self._socket.connect(self.endpoint)
        self._socket.start()

    def send(self, message: FromNode) -> bool:
        """Send; false when the orchestrator is not there (its streams end with their lease)."""
        result = self._socket.send(FROM_NODE.encode(message))
        return result is Sent.OK

    def beat(self, lag_ms: int) -> None:
        """Say that this node lives, or register; and free what an orchestrator that is gone left behind."""
        if self.used and time.monotonic() - self._heard > LEASE_MS / 1000:
            log.warning("%s has been silent for %d ms: freeing its %d streams", self.endpoint, LEASE_MS, self.used)
            self._drop_all()
        if self._epoch:
            node = self._node
            self._send_control(Heartbeat(0, 0, 0, node.state, node.used, lag_ms))
        else:
            self._register()

    def drop(self, stream: int) -> None:
        """Forget a stream and stop its work. Safe to repeat."""
        self._opening.pop(stream, None)
        work = self._works.pop(stream, None)
        if work is not None:
            work.close()
            self._node.stream_ended()

    def close(self) -> None:
        """Stop all work and take leave."""
        self._drop_all()
        for task in self._tasks:
            task.cancel()
        if self._epoch:
            self._send_control(Goodbye(0, 0, 0))
        self._socket.close_politely()

    def _register(self) -> None:
        node = self._node
        self._send_control(
            Register(
                0, 0, 0, node.service, node.engine_name, node.name, node.epoch, os.getpid(), socket.gethostname(),
                node.slots, node.state, list(node.engine.sample_rates),
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
            self._opening[message.stream].append(message)
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
                self._node.give_up(message.message)
        elif not isinstance(message, Beat):
            log.warning("%s sent a %s without a stream", self.endpoint, type(message).__name__)

    def _welcome(self, message: Welcome) -> None:
        if message.version[0] != PROTOCOL_VERSION[0]:
            self._node.give_up(
                f"{self.endpoint} speaks protocol version {message.version[0]}, this node {PROTOCOL_VERSION[0]}: "
                "install the same release on both"
            )
            return
        if self._epoch and self._epoch != message.epoch:
            self._drop_all()
        if self._epoch != message.epoch:
            log.info("registered at %s (%s)", message.orchestrator, self.endpoint)
        self._epoch = message.epoch
        self._complained = ""

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
        if not opening.probe:
            self._opening[opening.stream] = []
        task = asyncio.get_running_loop().create_task(self._accept(stream, options, opening))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, stream: Stream, options: object, opening: OpenStream) -> None:
        node = self._node
        try:
            await node.engine.check(options)
            rate = node.serving.sample_rate(options)
            if opening.probe:
                stream.send(StreamOpened(0, 0, 0, rate))
                return
            work = await node.serving.accept(stream, options, opening)
        except Exception as error:  # noqa: BLE001  # told to the orchestrator, and logged if it was not expected
            stream.fail(error)
            return
        waiting = self._opening.pop(stream.id, None)
        if waiting is None:  # closed while it was being accepted
            work.close()
            return
        self._works[stream.id] = work
        stream.send(StreamOpened(0, 0, 0, rate))
        for message in waiting:
            if stream.id in self._works:
                self._give(work, message)
        node.serving.batch()

    def _drop_all(self) -> None:
        for stream in [*self._works, *self._opening]:
            self.drop(stream)
