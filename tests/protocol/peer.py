"""An orchestrator by script: a real bound socket that answers as it is told."""

from __future__ import annotations

from typing import Any, Self

from protocol.ids import new_epoch
from protocol.ingest import (
    FROM_CLIENT,
    TO_CLIENT,
    Close,
    Closed,
    Error,
    FromClient,
    Open,
    Opened,
    Ping,
    Pong,
    ToClient,
)
from protocol.limits import INGEST_DROP_BYTES, PROTOCOL_VERSION
from protocol.sockets import RouterSocket, Sent, shared_context


class Peer:
    """Opens every session (or refuses it with `refusal`), answers pings, and keeps what it is sent."""

    def __init__(self, endpoint: str, *, credit_ms: int = 4_000, refusal: Error | None = None) -> None:
        self.endpoint = endpoint
        self.epoch = new_epoch()
        self.credit_ms = credit_ms
        self.refusal = refusal
        self.version: tuple[int, int] = PROTOCOL_VERSION
        self.mute = False  # hung: takes everything, answers nothing
        self.early: list[ToClient] = []  # sent right behind `opened`
        self.sessions: dict[str, bytes] = {}
        self.received: list[FromClient] = []
        self._sequences: dict[str, int] = {}
        self._socket = RouterSocket(
            shared_context(),
            self._on_message,
            drop_bytes=INGEST_DROP_BYTES,
            on_bad_frames=lambda identity, frames: None,
        )
        self.bound = self._socket.bind(endpoint)
        self._socket.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gone, without a word."""
        self._socket.close()

    def of(self, kind: type[Any]) -> list[Any]:
        """What was received of this kind."""
        return [message for message in self.received if isinstance(message, kind)]

    def send(self, session: str, *messages: ToClient) -> None:
        """Send with session and sequence filled in."""
        for message in messages:
            message.session = session
            message.sequence = self._sequences.get(session, 0)
            self._sequences[session] = message.sequence + 1
            self.send_raw(session, TO_CLIENT.encode(message))

    def send_raw(self, session: str, blob: bytes) -> None:
        """Send these bytes to the client of this session."""
        assert self._socket.send(self.sessions[session], blob) is Sent.OK

    def _on_message(self, identity: bytes, blob: bytes) -> None:
        message = FROM_CLIENT.decode(blob)
        self.received.append(message)
        if self.mute:
            return
        session = message.session
        if isinstance(message, Open):
            self._open(identity, session)
        elif session not in self.sessions:
            error = Error(session, 0, 0, "unknown_session", "retryable", "start one with `open`")
            self._socket.send(identity, TO_CLIENT.encode(error))
        elif isinstance(message, Ping):
            self.send(session, Pong("", 0, 0))
        elif isinstance(message, Close):
            self.send(session, Closed("", 0, 0, message.reason))

    def _open(self, identity: bytes, session: str) -> None:
        self.sessions[session] = identity
        if self.refusal is not None:
            self.send(session, self.refusal, Closed("", 0, 0, self.refusal.code))
            return
        self.send(session, Opened("", 0, 0, self.version, self.epoch, "scripted", self.credit_ms), *self.early)
