"""The ingest: who may open a session, which client a session belongs to, and what a peer that sends rubbish is told.

It routes; what a message means for a conversation, the session says. A peer can harm its own sessions and no other's:
a message counts for a session only when it comes from the connection that opened it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from dataclasses import dataclass, field

import zmq

from orchestrator.factory import AgentFactory, AgentFailed, SessionInfo
from orchestrator.nodes import Node, NodePool
from orchestrator.session import Session
from protocol.codec import peek
from protocol.errors import (
    AntiphonError,
    Draining,
    DuplicateSession,
    Malformed,
    ProtocolError,
    SessionsFull,
    TooLarge,
    UnknownKind,
    UnknownSession,
    VersionMismatch,
)
from protocol.ingest import FROM_CLIENT, TO_CLIENT, Closed, Error, FromClient, Open, ToClient
from protocol.limits import (
    CLIENT_TIMEOUT_MS,
    INGEST_DROP_BYTES,
    MAX_BAD_MESSAGES,
    MAX_ID_LENGTH,
    MAX_METADATA_ITEMS,
    PROTOCOL_VERSION,
)
from protocol.sockets import RouterSocket, Sent

log = logging.getLogger(__name__)

OPEN_TIMEOUT_S = 10.0  # for the user's factory and the engines' answers
GONE_S = 5.0  # a client whose connection is closed may dial again for so long
EARLY_MESSAGES = 256  # of a client that does not wait for `opened`: five seconds of frames
PARDON_S = 60.0  # bad messages are counted for so long
BAD_PEERS = 4_096  # whose bad messages are counted; beyond, the first ones are forgotten
LOG_EVERY_S = 1.0  # refused messages: a broken peer must not fill the log


@dataclass(slots=True)
class Call:
    """A session and its client. `early`: what came before the session was open; None once it is."""

    identity: bytes
    opening: Open
    heard: float  # monotonic seconds
    session: Session | None = None
    early: list[FromClient] | None = field(default_factory=list)
    gone_at: float | None = None  # since when the client's connection is closed
    task: asyncio.Task[None] | None = None


class Ingest:
    """All sessions of this orchestrator, behind its ingest socket."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        *,
        pool: NodePool,
        factory: AgentFactory,
        name: str,
        epoch: str,
        max_sessions: int,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.draining = False
        self.socket = RouterSocket(
            context, self._on_message, drop_bytes=INGEST_DROP_BYTES, on_bad_frames=self._on_bad_frames
        )
        self._pool = pool
        self._factory = factory
        self._name = name
        self._epoch = epoch
        self._max_sessions = max_sessions
        self._calls: dict[str, Call] = {}
        self._empty = asyncio.Event()  # set when a session ends and no other is left
        self._leaving: set[asyncio.Task[None]] = set()
        self._bad: Counter[bytes] = Counter()
        self._pardon_at = time.monotonic() + PARDON_S
        self._log_at = 0.0

    @property
    def sessions(self) -> list[Session]:
        """The sessions that are open, oldest first."""
        return [call.session for call in self._calls.values() if call.session is not None and call.early is None]

    def sweep(self, now: float) -> None:
        """Look after sessions and end those whose client is gone. Call it every 50 to 100 ms."""
        for call in list(self._calls.values()):
            session = call.session
            if session is None:
                continue
            session.sweep(now)
            if now - call.heard > CLIENT_TIMEOUT_MS / 1000:
                session.close(f"the client was silent for {CLIENT_TIMEOUT_MS / 1000:g} s")
            elif call.gone_at is not None and now - call.gone_at > GONE_S:
                session.close("the client is gone")
            if session.closed:
                self._forget(call)
        if now >= self._pardon_at:
            self._pardon_at = now + PARDON_S
            self._bad.clear()

    def node_drains(self, node: Node) -> None:
        """Sessions leave this node as soon as they can."""
        for session in self.sessions:
            session.node_drains(node)

    async def drain(self, seconds: float) -> None:
        """Take no new sessions and wait until those that run have ended, at most so long; then end them."""
        self.draining = True
        if self._calls:
            self._empty.clear()
            log.info("draining: %d sessions are still open", len(self._calls))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), seconds)
        for call in list(self._calls.values()):
            if call.task is not None:
                call.task.cancel()
            if call.session is not None:
                call.session.close("the orchestrator is shutting down", reachable=True)
        for call in list(self._calls.values()):
            if call.session is not None:
                await call.session.wait_closed()
            self._forget(call)
        await asyncio.gather(*self._leaving, return_exceptions=True)

    # --- messages ---------------------------------------------------------------------------------------------------

    def _on_message(self, identity: bytes, blob: bytes) -> None:
        if self._bad and self._bad[identity] >= MAX_BAD_MESSAGES:
            return
        try:
            message = FROM_CLIENT.decode(blob)
            if isinstance(message, Open):
                self._on_open(identity, message)
            else:
                self._on_session_message(identity, message)
        except AntiphonError as error:
            self._refuse(identity, _session_of(blob), error)

    def _on_open(self, identity: bytes, opening: Open) -> None:
        if opening.version[0] != PROTOCOL_VERSION[0]:
            raise VersionMismatch(
                f"the client speaks protocol version {opening.version[0]}.{opening.version[1]}, this orchestrator "
                f"{PROTOCOL_VERSION[0]}.{PROTOCOL_VERSION[1]}: install the same release on both"
            )
        opening.input.check("open.input")
        opening.output.check("open.output")
        if len(opening.metadata) > MAX_METADATA_ITEMS:
            raise Malformed(
                f"open.metadata has {len(opening.metadata)} items; at most {MAX_METADATA_ITEMS} are allowed"
            )
        if opening.session in self._calls:
            raise DuplicateSession(f"session {opening.session!r} is open already; choose a new random id")
        if self.draining:
            raise Draining(f"{self._name} is shutting down and takes no new sessions; try again in a moment")
        if len(self._calls) >= self._max_sessions:
            raise SessionsFull(
                f"overloaded: {self._name} holds {len(self._calls)} sessions, and --max-sessions allows no more; "
                "try again later, or add one with `antiphon scale orchestrator=2`"
            )
        call = Call(identity, opening, time.monotonic())
        self._calls[opening.session] = call
        call.task = asyncio.get_running_loop().create_task(self._open(call), name=f"open {opening.session}")

    def _on_session_message(self, identity: bytes, message: FromClient) -> None:
        call = self._calls.get(message.session)
        if call is None or call.identity != identity:
            raise UnknownSession(f"session {message.session!r} is not open here: start one with `open`")
        call.heard = time.monotonic()
        call.gone_at = None
        if call.early is not None:
            if len(call.early) >= EARLY_MESSAGES:
                raise TooLarge(
                    f"{EARLY_MESSAGES} messages have come before the session was open; wait for `opened` before sending"
                )
            call.early.append(message)
        elif call.session is not None:
            call.session.receive(message)
            if call.session.closed:
                self._forget(call)

    # --- sessions ---------------------------------------------------------------------------------------------------

    async def _open(self, call: Call) -> None:
        opening = call.opening
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                agent = await self._factory(SessionInfo(opening.session, opening.user, dict(opening.metadata)))
                call.session = Session(
                    opening, agent, self._pool, lambda message: self._send(call, message), self._epoch, self._name
                )
                await call.session.open()
        except Exception as error:  # noqa: BLE001  # told to the client, and logged if nobody foresaw it
            self._refuse_opening(call, _explain(error))
            return
        self.counters["sessions_opened"] += 1
        log.info("session %s is open (user %r)", opening.session, opening.user)
        early, call.early = call.early or [], None
        for message in early:
            try:
                if not call.session.closed:
                    call.session.receive(message)
            except ProtocolError as error:
                self._refuse(call.identity, opening.session, error)
        if call.session.closed:
            self._forget(call)

    def _refuse_opening(self, call: Call, error: AntiphonError) -> None:
        self.counters["sessions_refused"] += 1
        log.warning("session %s was refused: %s", call.opening.session, error)
        session = call.session
        if session is not None:
            session.tell(error)
            session.close(error.code)
        else:
            self._send(call, _error(call.opening.session, error))
            self._send(call, Closed(call.opening.session, 0, 1, error.code))
        self._forget(call)

    def _forget(self, call: Call) -> None:
        self._calls.pop(call.opening.session, None)
        if not self._calls:
            self._empty.set()
        if call.session is not None:
            log.info("session %s has ended", call.opening.session)
            task = asyncio.get_running_loop().create_task(call.session.wait_closed())
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    # --- answers ----------------------------------------------------------------------------------------------------

    def _send(self, call: Call, message: ToClient) -> None:
        sent = self.socket.send(call.identity, TO_CLIENT.encode(message))
        if sent is Sent.GONE:
            call.gone_at = call.gone_at or time.monotonic()
        elif sent is Sent.FULL:
            self.counters["messages_dropped"] += 1

    def _on_bad_frames(self, identity: bytes, frames: int) -> None:
        if self._bad[identity] < MAX_BAD_MESSAGES:
            self._refuse(identity, "", Malformed(f"a message is exactly one frame; this one had {frames}"))

    def _refuse(self, identity: bytes, session: str, error: AntiphonError) -> None:
        """Answer a message that can't be accepted. After too many from one peer it is not listened to for a while."""
        call = self._calls.get(session)
        own = call if call is not None and call.identity == identity else None
        if isinstance(error, UnknownKind) and own is not None and own.opening.version > PROTOCOL_VERSION:
            self.counters["ignored_messages"] += 1  # of a newer minor version: it must do without
            return
        self.counters["bad_messages"] += 1
        if len(self._bad) >= BAD_PEERS and identity not in self._bad:
            del self._bad[next(iter(self._bad))]
        self._bad[identity] += 1
        self._log_refusal(identity, error)
        if own is not None and own.session is not None:
            own.session.tell(error)
        else:
            self.socket.send(identity, TO_CLIENT.encode(_error(session, error)))
        if self._bad[identity] >= MAX_BAD_MESSAGES:
            self._hang_up(identity)

    def _hang_up(self, identity: bytes) -> None:
        log.warning(
            "peer %r has sent %d bad messages and is not listened to for up to %g s",
            identity,
            MAX_BAD_MESSAGES,
            PARDON_S,
        )
        for call in [call for call in self._calls.values() if call.identity == identity]:
            if call.session is not None:
                call.session.close(f"the client has sent {MAX_BAD_MESSAGES} bad messages")
                self._forget(call)

    def _log_refusal(self, identity: bytes, error: AntiphonError) -> None:
        now = time.monotonic()
        if now >= self._log_at:
            self._log_at = now + LOG_EVERY_S
            total = self.counters["bad_messages"]
            log.warning("refused a message from %r: %s (%d refused so far)", identity, error, total)


def _error(session: str, error: AntiphonError) -> Error:
    return Error(session, 0, 0, error.code, error.category, str(error))


def _session_of(blob: bytes) -> str:
    """The session that a message names, if it can be made out: the answer names it too."""
    fields = peek(blob[: 64 * 1024])
    named = fields[1] if fields is not None and len(fields) > 1 else ""
    return named if isinstance(named, str) and len(named) <= MAX_ID_LENGTH else ""


def _explain(error: Exception) -> AntiphonError:
    """What the client is told of an error that kept its session from opening."""
    if isinstance(error, AntiphonError):
        return error
    if isinstance(error, TimeoutError):
        return AgentFailed(f"the session could not be opened within {OPEN_TIMEOUT_S:g} s: the agent's factory hangs")
    log.error("a session could not be opened", exc_info=error)
    return AgentFailed(f"the session could not be opened: {type(error).__name__}: {error}")
