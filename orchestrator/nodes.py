"""The nodes that are registered here, their liveness, and the dispatcher: which node a stream is opened on.

Nothing is configured: a node is known from its `register` until it says goodbye, is silent for `NODE_TIMEOUT_MS`, or
can't be reached.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import zmq

from orchestrator.streams import NodeStream, StreamHandler
from protocol.engine import EngineSpec
from protocol.errors import NoNode, Overloaded, ProtocolError
from protocol.limits import HEARTBEAT_MS, NODE_DROP_BYTES, NODE_TIMEOUT_MS, PROTOCOL_VERSION
from protocol.node import (
    FROM_NODE,
    TO_NODE,
    Beat,
    FromNode,
    Goodbye,
    Heartbeat,
    NodeState,
    OpenStream,
    Refused,
    Register,
    ToNode,
    Welcome,
)
from protocol.sockets import RouterSocket, Sent

log = logging.getLogger(__name__)


class Node:
    """A registered node and the streams that this orchestrator has open on it."""

    def __init__(self, pool: NodePool, identity: bytes, registration: Register) -> None:
        self._pool = pool
        self.identity = identity
        self.registration = registration
        self.name = registration.name
        self.state: NodeState = registration.state
        self.used = 0  # as the node says: over all orchestrators
        self.lag_ms = 0
        self.heard = time.monotonic()
        self.streams: dict[int, NodeStream] = {}

    @property
    def load(self) -> float:
        """Share of the slots that is taken; never less than what this orchestrator itself has opened."""
        return max(self.used, len(self.streams)) / self.registration.slots

    @property
    def age_ms(self) -> int:
        """Since the node was last heard."""
        return int((time.monotonic() - self.heard) * 1000)

    def send(self, message: ToNode) -> None:
        """Send; a node that can't take it is lost, and its streams' handlers are told."""
        self._pool.send(self, message)

    def serves(self, spec: EngineSpec) -> bool:
        """Whether this node runs the engine that is asked for."""
        return self.registration.service == spec.service and self.registration.engine == spec.engine


class NodePool:
    """All nodes of this orchestrator, behind its nodes socket."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], name: str, epoch: str) -> None:
        self._name = name
        self._epoch = epoch
        self._nodes: dict[bytes, Node] = {}
        self._next_stream = 1
        self._doomed: list[Node] = []
        self.bad_messages = 0
        self.on_draining: Callable[[Node], None] = _nobody
        self.socket = RouterSocket(
            context, self._on_message, drop_bytes=NODE_DROP_BYTES, on_bad_frames=self._on_bad_frames
        )

    @property
    def nodes(self) -> list[Node]:
        """The registered nodes, by service and name."""
        return sorted(self._nodes.values(), key=lambda node: (node.registration.service, node.name))

    def pick(self, spec: EngineSpec, avoid: Node | None = None) -> Node:
        """The least loaded live node that serves this engine; raises `NoNode` or `Overloaded`, both for a person."""
        serving = [node for node in self._nodes.values() if node.serves(spec) and node.state == "ready"]
        if not serving:
            raise NoNode(f"no node serves {spec}: start one with `antiphon {spec.service} --engine {spec.engine}`")
        free = [node for node in serving if node.load < 1 and node is not avoid]
        if not free:
            slots = sum(node.registration.slots for node in serving)
            raise Overloaded(
                f"overloaded: all {slots} slots of {spec} on {len(serving)} node(s) are taken; "
                f"try again later, or add a node with `antiphon scale {spec.service}={len(serving) + 1}`"
            )
        return min(free, key=lambda node: (node.load, len(node.streams)))

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
        """Open a stream on the least loaded node; its node's answer comes to the handler.

        With `probe` the options are only checked. Raises `NoNode` or `Overloaded` at once.
        """
        node = self.pick(spec)
        stream = NodeStream(self._next_stream, node, spec, session, generation, handler)
        self._next_stream += 1
        node.streams[stream.id] = stream
        stream.send(OpenStream(0, 0, 0, session, spec, probe, sample_rate))
        return stream

    def sample_rate(self, spec: EngineSpec, client_rate: int) -> int:
        """The rate in Hz at which this engine is best given audio of a client: the client's own if it takes it."""
        rates = self.pick(spec).registration.sample_rates
        return client_rate if client_rate in rates or not rates else rates[0]

    def send(self, node: Node, message: ToNode) -> None:
        """Send to a node. One that is gone, or whose queue is full in spite of credit, is lost."""
        result = self.socket.send(node.identity, TO_NODE.encode(message))
        if result is not Sent.OK and node not in self._doomed:
            # Not at once: the caller is in the middle of something with this very stream.
            self._doomed.append(node)
            log.warning("%s is %s", node.name, "gone" if result is Sent.GONE else "not taking its messages")

    def sweep(self) -> None:
        """Drop nodes that are silent or unreachable. Call it every 50 to 100 ms."""
        for node in self._nodes.values():
            if node.age_ms > NODE_TIMEOUT_MS:
                log.warning("%s has been silent for %d ms", node.name, node.age_ms)
                self._doomed.append(node)
            elif node.age_ms > HEARTBEAT_MS + 50:  # it is late: a dead process can't be reached any more
                self.send(node, Beat(0, 0, 0))
        self.bury()

    def bury(self) -> None:
        """Remove the nodes that were found lost, and tell their streams' handlers."""
        while self._doomed:
            self._remove(self._doomed.pop())

    def _remove(self, node: Node) -> None:
        if self._nodes.get(node.identity) is node:
            del self._nodes[node.identity]
            log.info("%s is no longer registered", node.name)
        for stream in list(node.streams.values()):
            stream.lose()

    def _on_message(self, identity: bytes, blob: bytes) -> None:
        try:
            message = FROM_NODE.decode(blob)
        except ProtocolError as error:
            self._refuse(identity, error.code, str(error))
            return
        node = self._nodes.get(identity)
        if node is None:
            self._on_stranger(identity, message)
            return
        node.heard = time.monotonic()
        stream = node.streams.get(message.stream)
        if stream is not None:
            stream.receive(message)
        elif message.stream == 0:
            self._on_control(node, message)
        # else: for a stream that was closed here while this was on its way
        if self._doomed:
            self.bury()

    def _on_stranger(self, identity: bytes, message: FromNode) -> None:
        if not isinstance(message, Register):
            self._answer(identity, Refused(0, 0, 0, "unknown_node", "this node is not registered here: register first"))
            return
        if message.version[0] != PROTOCOL_VERSION[0]:
            mine, its = PROTOCOL_VERSION[0], message.version[0]
            self._refuse(identity, "version", f"{message.name} speaks protocol version {its}, {self._name} {mine}")
            return
        for other in self._nodes.values():
            if other.name == message.name:
                self.send(other, Beat(0, 0, 0))  # finds out at once whether it is only a memory
                if other not in self._doomed:
                    where = f"process {other.registration.pid} on {other.registration.host}"
                    self._refuse(identity, "duplicate", f"the name {message.name!r} is in use by {where}")
                    return
        self.bury()
        self._nodes[identity] = Node(self, identity, message)
        log.info("%s (%s/%s, pid %d) registered", message.name, message.service, message.engine, message.pid)
        self._answer(identity, Welcome(0, 0, 0, PROTOCOL_VERSION, self._name, self._epoch))

    def _on_control(self, node: Node, message: FromNode) -> None:
        if isinstance(message, Heartbeat):
            was, node.state = node.state, message.state
            node.used, node.lag_ms = message.used, message.lag_ms
            self.send(node, Beat(0, 0, 0))
            if node.state != was:
                log.info("%s is %s", node.name, node.state)
                if node.state == "draining":
                    self.on_draining(node)
        elif isinstance(message, Goodbye):
            log.info("%s says goodbye", node.name)
            self._doomed.append(node)
        elif isinstance(message, Register):  # it has not seen our welcome yet
            self._answer(node.identity, Welcome(0, 0, 0, PROTOCOL_VERSION, self._name, self._epoch))

    def _on_bad_frames(self, identity: bytes, frames: int) -> None:
        self._refuse(identity, "malformed", f"a message is exactly one frame; this one had {frames}")

    def _refuse(self, identity: bytes, code: str, message: str) -> None:
        self.bad_messages += 1
        if self.bad_messages % 100 == 1:  # a broken peer must not fill the log
            log.warning("refused a message from %r: %s (%d so far)", identity, message, self.bad_messages)
        self._answer(identity, Refused(0, 0, 0, code, message))

    def _answer(self, identity: bytes, message: ToNode) -> None:
        self.socket.send(identity, TO_NODE.encode(message))


def _nobody(_: Node) -> None:
    """Nobody asked to hear of nodes that drain."""
