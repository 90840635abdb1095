"""The nodes that are registered here, their liveness, and the dispatcher: which node a stream is opened on.

Nothing is configured: a node is known from its `register` until it says goodbye, is silent for `NODE_TIMEOUT_MS`, or
can't be reached.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import zmq

from orchestrator.streams import NodeStream, StreamHandler
from protocol.engine import EngineSpec
from protocol.errors import Malformed, NoNode, Overloaded, ProtocolError, UnknownKind
from protocol.limits import (
    HEARTBEAT_MS,
    MAX_BAD_MESSAGES,
    NODE_DROP_BYTES,
    NODE_HIGH_WATER_MARK,
    NODE_TIMEOUT_MS,
    PROTOCOL_VERSION,
)
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

MAX_BAD_PEERS = 1_000  # whose malformed messages are counted; identities cost a hostile peer nothing


class Node:
    """A registered node and the streams that this orchestrator has open on it."""

    def __init__(self, pool: NodePool, identity: bytes, registration: Register) -> None:
        self._pool = pool
        self.identity = identity
        self.registration = registration
        self.name = registration.name
        self.state: NodeState = registration.state
        self.used = 0  # as the node says: over all orchestrators
        self.used_by_others = 0  # of these, other orchestrators' when the node said so
        self.full = False  # it has just refused a stream that the figures above had room for
        self.lost = False  # it can't be reached, or took leave: it is about to be removed
        self.lag_ms = 0
        self.heard = time.monotonic()
        self.streams: dict[int, NodeStream] = {}

    @property
    def own(self) -> int:
        """Slots that this orchestrator's streams take. A probe takes none."""
        return sum(not stream.probe for stream in self.streams.values())

    @property
    def load(self) -> float:
        """Share of the slots that is taken: what others held when the node last said so, and what is open here now."""
        return 1.0 if self.full else (self.used_by_others + self.own) / self.registration.slots

    @property
    def age_ms(self) -> int:
        """Since the node was last heard."""
        return int((time.monotonic() - self.heard) * 1000)

    def send(self, message: ToNode) -> None:
        """Send; a node that can't take it is lost, and its streams' handlers are told."""
        self._pool.send(self, message)

    def move(self, stream: NodeStream) -> None:
        """This node has refused the stream: open it on another one. Raises `NoNode` or `Overloaded`."""
        self._pool.move(stream)

    def update(self, heartbeat: Heartbeat) -> None:
        """What the node says of itself."""
        self.state, self.used, self.lag_ms = heartbeat.state, heartbeat.used, heartbeat.lag_ms
        self.used_by_others = max(0, heartbeat.used - self.own)
        self.full = False

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
        self._swept = time.monotonic()
        self._was_late = False
        self._bad: dict[bytes, int] = {}  # malformed messages of each peer
        self._complained = 0.0
        self.bad_messages = 0
        self.on_draining: Callable[[Node], None] = _nobody
        self.socket = RouterSocket(
            context,
            self._on_message,
            drop_bytes=NODE_DROP_BYTES,
            on_bad_frames=self._on_bad_frames,
            high_water_mark=NODE_HIGH_WATER_MARK,
        )

    @property
    def nodes(self) -> list[Node]:
        """The registered nodes, by service and name."""
        return sorted(self._nodes.values(), key=lambda node: (node.registration.service, node.name))

    def pick(self, spec: EngineSpec) -> Node:
        """The least loaded live node that serves this engine; raises `NoNode` or `Overloaded`, both for a person."""
        serving = [
            node for node in self._nodes.values() if node.serves(spec) and node.state == "ready" and not node.lost
        ]
        if not serving:
            raise NoNode(f"no node serves {spec}: start one with `antiphon {spec.service} --engine {spec.engine}`")
        free = [node for node in serving if node.load < 1]
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
        opening = OpenStream(0, 0, 0, session, spec, probe, sample_rate)
        stream = NodeStream(self._next_stream, self.pick(spec), opening, generation, handler)
        self._next_stream += 1
        stream.open()
        return stream

    def move(self, stream: NodeStream) -> None:
        """A node refused this stream, for another orchestrator was faster: open it elsewhere. Raises as `pick`."""
        stream.node.full = True  # until its next heartbeat says otherwise
        stream.node.streams.pop(stream.id, None)
        stream.node = self.pick(stream.spec)
        stream.open()

    def sample_rate(self, spec: EngineSpec, client_rate: int) -> int:
        """The rate in Hz at which this engine is best given audio of a client: the client's own if it takes it."""
        rates = self.pick(spec).registration.sample_rates
        return client_rate if client_rate in rates or not rates else rates[0]

    def finds_speech(self, spec: EngineSpec) -> bool:
        """Whether this stt engine itself finds where speech begins and ends. Raises as `pick`."""
        return self.pick(spec).registration.finds_speech

    def send(self, node: Node, message: ToNode) -> None:
        """Send to a node. One that is gone, or whose queue is full in spite of credit, is lost. Raises `TooLarge`."""
        blob = TO_NODE.encode(message)
        if node.lost:
            return
        result = self.socket.send(node.identity, blob)
        if result is not Sent.OK:
            log.warning("%s is %s", node.name, "gone" if result is Sent.GONE else "not taking its messages")
            self._doom(node)

    def sweep(self) -> None:
        """Drop nodes that are silent or unreachable. Call it every 50 to 100 ms."""
        now = time.monotonic()
        late, self._swept = now - self._swept > HEARTBEAT_MS / 1000, now
        if late and not self._was_late:  # this loop was busy: what the nodes have said meanwhile is still to be read
            self._was_late = True
            return
        self._was_late = False
        for node in self._nodes.values():
            if node.age_ms > NODE_TIMEOUT_MS:
                log.warning("%s has been silent for %d ms", node.name, node.age_ms)
                self._doom(node)
            elif node.age_ms > HEARTBEAT_MS + 50:  # it is late: a dead process can't be reached any more
                self.send(node, Beat(0, 0, 0))
        self.bury()

    def bury(self) -> None:
        """Remove the nodes that were found lost, and tell their streams' handlers."""
        while self._doomed:
            self._remove(self._doomed.pop())

    def _doom(self, node: Node) -> None:
        """A node is lost. Not removed at once: the caller is in the middle of something with one of its streams."""
        if not node.lost:
            node.lost = True
            self._doomed.append(node)
            asyncio.get_running_loop().call_soon(self.bury)

    def _remove(self, node: Node) -> None:
        if self._nodes.get(node.identity) is node:
            del self._nodes[node.identity]
            log.info("%s is no longer registered", node.name)
        for stream in list(node.streams.values()):
            try:
                stream.lose()
            except Exception:  # the others must be told all the same
                log.exception("session %s could not be told that %s is lost", stream.session, node.name)

    def _on_message(self, identity: bytes, blob: bytes) -> None:
        try:
            message = FROM_NODE.decode(blob)
        except ProtocolError as error:
            self._on_bad(identity, error)
            return
        node = self._nodes.get(identity)
        if node is None or node.lost:
            self._on_stranger(identity, message)
            return
        node.heard = time.monotonic()
        stream = node.streams.get(message.stream)
        if stream is not None:
            stream.receive(message)
        elif message.stream == 0:
            self._on_control(node, message)
        # else: for a stream that was closed here while this was on its way

    def _on_stranger(self, identity: bytes, message: FromNode) -> None:
        if not isinstance(message, Register):
            self._answer(identity, Refused(0, 0, 0, "unknown_node", "this node is not registered here: register first"))
            return
        if message.version[0] != PROTOCOL_VERSION[0]:
            mine, its = PROTOCOL_VERSION[0], message.version[0]
            reason = f"{message.name} speaks protocol version {its}, {self._name} {mine}"
            self._refuse(identity, "version", f"{reason}: install the same release on both")
            return
        for other in self._nodes.values():
            if other.name == message.name:
                self.send(other, Beat(0, 0, 0))  # finds out at once whether it is only a memory
                if not other.lost:
                    where = f"process {other.registration.pid} on {other.registration.host}"
                    self._refuse(identity, "duplicate", f"the name {message.name!r} is in use by {where}")
                    return
        self.bury()  # also a memory of this very node: it has dropped the streams that it had then
        self._nodes[identity] = Node(self, identity, message)
        log.info("%s (%s/%s, pid %d) registered", message.name, message.service, message.engine, message.pid)
        self._answer(identity, Welcome(0, 0, 0, PROTOCOL_VERSION, self._name, self._epoch))

    def _on_control(self, node: Node, message: FromNode) -> None:
        if isinstance(message, Heartbeat):
            was = node.state
            node.update(message)
            self.send(node, Beat(0, 0, 0))
            if node.state != was:
                log.info("%s is %s", node.name, node.state)
                if node.state == "draining":
                    self.on_draining(node)
        elif isinstance(message, Goodbye):
            log.info("%s says goodbye", node.name)
            self._doom(node)
        elif isinstance(message, Register):  # it has not seen our welcome yet
            self._answer(node.identity, Welcome(0, 0, 0, PROTOCOL_VERSION, self._name, self._epoch))

    def _on_bad_frames(self, identity: bytes, frames: int) -> None:
        self._on_bad(identity, Malformed(f"a message is exactly one frame; this one had {frames}"))

    def _on_bad(self, identity: bytes, error: ProtocolError) -> None:
        """Count it; say what is wrong, but not for ever, and not of a kind that a newer version may well send."""
        self.bad_messages += 1
        count = self._bad[identity] = self._bad.pop(identity, 0) + 1
        if len(self._bad) > MAX_BAD_PEERS:
            del self._bad[next(iter(self._bad))]
        if count <= MAX_BAD_MESSAGES and not (isinstance(error, UnknownKind) and identity in self._nodes):
            self._refuse(identity, error.code, str(error))

    def _refuse(self, identity: bytes, code: str, message: str) -> None:
        now = time.monotonic()
        if now - self._complained >= 1:  # broken peers must not fill the log
            self._complained = now
            log.warning("refused a message from %r: %s", identity, message)
        self._answer(identity, Refused(0, 0, 0, code, message))

    def _answer(self, identity: bytes, message: ToNode) -> None:
        self.socket.send(identity, TO_NODE.encode(message))


def _nobody(_: Node) -> None:
    """Nobody asked to hear of nodes that drain."""
