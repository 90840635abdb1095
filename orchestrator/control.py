"""The control socket: tells operators what this orchestrator holds. Reads only."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import zmq

from orchestrator.nodes import Node
from orchestrator.session import Session
from protocol.control import FROM_CONTROL, TO_CONTROL, NodeStatus, SessionStatus, Snapshot
from protocol.errors import ProtocolError
from protocol.limits import INGEST_DROP_BYTES
from protocol.sockets import RouterSocket

log = logging.getLogger(__name__)


class Control:
    """Answers `status` with what `snapshot` gives."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot
        self.socket = RouterSocket(
            context, self._on_message, drop_bytes=INGEST_DROP_BYTES, on_bad_frames=self._on_bad_frames
        )

    def _on_message(self, identity: bytes, blob: bytes) -> None:
        try:
            TO_CONTROL.decode(blob)
        except ProtocolError as error:
            log.warning("the control socket was sent what it does not understand: %s", error)
            return
        self.socket.send(identity, FROM_CONTROL.encode(self._snapshot()))

    def _on_bad_frames(self, identity: bytes, frames: int) -> None:
        log.warning("the control socket was sent a message of %d frames; a message is exactly one", frames)


def node_status(node: Node) -> NodeStatus:
    """A node as operators see it."""
    registration = node.registration
    return NodeStatus(
        name=node.name,
        service=registration.service,
        engine=registration.engine,
        state=node.state,
        host=registration.host,
        pid=registration.pid,
        slots=registration.slots,
        used=max(node.used, len(node.streams)),
        age_ms=node.age_ms,
        lag_ms=node.lag_ms,
    )


def session_status(session: Session) -> SessionStatus:
    """A conversation as operators see it."""
    agent, user = session.states
    return SessionStatus(
        session=session.id,
        user_id=session.opening.user,
        agent=agent,
        user=user,
        turns=session.turns,
        age_s=round(time.monotonic() - session.began, 1),
        nodes=session.nodes,
        audio_gaps=session.gaps,
    )
