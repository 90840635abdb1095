"""The messages of the control socket: what an operator asks a running orchestrator.

The socket is an ipc socket in the run directory (mode 0700): whoever can open it may ask. A request and its answer are
one msgpack array each, as on the other sockets.
"""

from __future__ import annotations

import msgspec
import zmq

from protocol.codec import Codec
from protocol.endpoint import check
from protocol.errors import ConnectionLost
from protocol.limits import MAX_NODE_BYTES
from protocol.node import NodeState


class StatusRequest(msgspec.Struct, array_like=True, tag="status"):
    """Ask for a `snapshot`."""


class NodeStatus(msgspec.Struct):
    """A node that is registered here. `age_ms`: since it was last heard; `lag_ms`: how late its loop runs."""

    name: str
    service: str
    engine: str
    state: NodeState
    host: str
    pid: int
    slots: int
    used: int
    age_ms: int
    lag_ms: int


class SessionStatus(msgspec.Struct):
    """A conversation. `agent` and `user`: who is doing what; `nodes`: which nodes serve it now, by service."""

    session: str
    user_id: str
    agent: str
    user: str
    turns: int
    age_s: float
    nodes: dict[str, str]
    audio_gaps: int  # frames of the client that never arrived


class Snapshot(msgspec.Struct, array_like=True, tag="snapshot"):
    """The state of one orchestrator."""

    orchestrator: str
    epoch: str
    pid: int
    uptime_s: float
    draining: bool
    agent: str  # module:factory, or "" for the built-in one
    ingest: str
    nodes_endpoint: str
    nodes: list[NodeStatus]
    sessions: list[SessionStatus]
    counters: dict[str, int]  # bad messages, refused sessions, …


TO_CONTROL: Codec[StatusRequest] = Codec(StatusRequest, MAX_NODE_BYTES)
FROM_CONTROL: Codec[Snapshot] = Codec(Snapshot, MAX_NODE_BYTES)


def fetch_snapshot(endpoint: str, timeout_s: float = 1.0) -> Snapshot:
    """Ask the orchestrator at this control address; raises `ConnectionLost` when it does not answer in time."""
    check(endpoint)
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    try:
        socket.connect(endpoint)
        socket.send(TO_CONTROL.encode(StatusRequest()))
        if not socket.poll(int(timeout_s * 1000)):
            raise ConnectionLost(f"no orchestrator answers at {endpoint} within {timeout_s:g} s")
        return FROM_CONTROL.decode(socket.recv())
    finally:
        socket.close()
        context.term()
