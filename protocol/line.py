"""One session of a client at one orchestrator: the socket, the numbering of messages, and whether anybody is there.

A line is dialled once and lost once; `protocol.client` replaces it by another. It knows nothing of audio, credit or
what messages mean beyond opening, liveness and the end.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable

from protocol.errors import ConnectionLost, ProtocolError, RemoteError, UnknownKind, VersionMismatch
from protocol.ids import new_epoch, new_session_id, socket_identity
from protocol.ingest import FROM_CLIENT, TO_CLIENT, Close, Closed, Error, FromClient, Open, Opened, Ping, Pong, ToClient
from protocol.limits import CLIENT_LOST_MS, CLIENT_PING_MS, INGEST_DROP_BYTES, LINGER_MS, PROTOCOL_VERSION
from protocol.sockets import DealerSocket, Sent, shared_context

log = logging.getLogger(__name__)

RETRY_S = 0.02  # between two tries to hand a message to a socket that is not connected: ZeroMQ gives no sign
MAX_UNSENT = 256  # control messages that wait for the connection to come back


class Line:
    """A DEALER to one ingest address and the session on it. Belongs to the running loop."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.session = new_session_id()
        self.ignored = 0  # messages of kinds that this version does not know, or that could not be read
        self.gaps = 0  # messages of the orchestrator that never arrived
        self._socket = DealerSocket(
            shared_context(), socket_identity("client", new_epoch()), self._on_blob, drop_bytes=INGEST_DROP_BYTES
        )
        loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[Opened | Error | Closed] = loop.create_future()
        self._over: asyncio.Future[str] = loop.create_future()
        self._early: list[ToClient] = []  # what came before anybody took delivery
        self._deliver: Callable[[ToClient], None] = self._early.append
        self._epoch = ""
        self._said_open = False
        self._ended = False  # the orchestrator has closed the session
        self._sequence = 0
        self._expected = 0
        self._heard = time.monotonic()
        self._unsent: deque[FromClient] = deque(maxlen=MAX_UNSENT)

    # --- opening ----------------------------------------------------------------------------------------------------

    async def open(self, opening: Open, connect_s: float, answer_s: float) -> Opened:
        """Connect within `connect_s`, send `opening`, and wait up to `answer_s` for the answer.

        Raises `ConnectionLost`, `RemoteError` for a refusal and `VersionMismatch`. Close the line whatever happens.
        """
        self._socket.connect(self.endpoint)
        self._socket.start()
        deadline = time.monotonic() + connect_s
        while not self.send(opening):
            if time.monotonic() > deadline:
                raise ConnectionLost(f"nobody listens at {self.endpoint}")
            await asyncio.sleep(RETRY_S)
        self._said_open = True
        try:
            async with asyncio.timeout(answer_s):
                answer = await asyncio.shield(self._answer)
        except TimeoutError:
            raise ConnectionLost(f"{self.endpoint} took the connection but gave no answer in {answer_s:g} s") from None
        if isinstance(answer, Error):
            raise RemoteError(answer.code, answer.category, answer.message)
        if isinstance(answer, Closed):
            raise RemoteError("closed", "retryable", f"{self.endpoint} closed the session at once: {answer.reason}")
        if answer.version[0] != PROTOCOL_VERSION[0]:
            raise VersionMismatch(
                f"{self.endpoint} speaks protocol version {answer.version[0]}, this client {PROTOCOL_VERSION[0]}: "
                "install the same release on both"
            )
        self._epoch = answer.epoch
        return answer

    def deliver_to(self, deliver: Callable[[ToClient], None]) -> None:
        """Hand over what has come, `opened` first, and from now on each message as it comes."""
        early, self._early, self._deliver = self._early, [], deliver
        for message in early:
            deliver(message)

    # --- its life ---------------------------------------------------------------------------------------------------

    async def watch(self) -> str:
        """Ping until the orchestrator is lost or the line is closed; returns the reason as a phrase."""
        ping_at = 0.0
        while not self._over.done():
            now = time.monotonic()
            if now - self._heard > CLIENT_LOST_MS / 1000:
                return f"{self.endpoint} has been silent for {CLIENT_LOST_MS / 1000:g} s"
            self._send_unsent()
            if now >= ping_at:
                sent = self.send(Ping("", 0, 0))
                ping_at = now + (CLIENT_PING_MS / 1000 if sent else RETRY_S)
            # Not connected, nobody says when that changes: look often, for a restarted orchestrator is noticed by this.
            until = RETRY_S if self._unsent else min(ping_at, self._heard + CLIENT_LOST_MS / 1000 + 0.001) - now
            await asyncio.wait([self._over], timeout=until)
            late = time.monotonic() - now - until
            if late > CLIENT_PING_MS / 1000:
                self._heard += late  # this process was stopped or its loop was blocked: that was not their silence
        return self._over.result()

    def send(self, message: FromClient) -> bool:
        """Send with the session and the next number filled in; false when there is no connection just now."""
        if self._socket.closed:
            return False
        message.session = self.session
        message.sequence = self._sequence
        if self._socket.send(FROM_CLIENT.encode(message)) is not Sent.OK:
            return False
        self._sequence += 1
        return True

    def send_surely(self, message: FromClient) -> None:
        """Send, after a break of the connection if need be; lost only together with the line."""
        if self._unsent or not self.send(message):
            self._unsent.append(message)

    def lose(self, reason: str) -> None:
        """End `watch()`."""
        if not self._over.done():
            self._over.set_result(reason)

    def close(self) -> None:
        """Close the socket at once. An orchestrator that may still have the session is told. Safe to repeat."""
        if self._socket.closed:
            return
        self.lose("closed here")
        if self._said_open and not self._ended:
            self.send(Close("", 0, 0))
        self._socket.close(LINGER_MS)

    def _send_unsent(self) -> None:
        while self._unsent and self.send(self._unsent[0]):
            self._unsent.popleft()

    # --- what comes -------------------------------------------------------------------------------------------------

    def _on_blob(self, blob: bytes) -> None:
        self._heard = time.monotonic()
        try:
            message = TO_CLIENT.decode(blob)
        except UnknownKind:
            self.ignored += 1  # of a newer minor version
            return
        except ProtocolError as error:
            self.ignored += 1
            log.warning("%s sent a message that was dropped: %s", self.endpoint, error)
            return
        if message.session not in (self.session, ""):
            self.ignored += 1
            return
        if not isinstance(message, Error | Pong):  # those may be about no session, and then are not counted
            self.gaps += max(0, message.sequence - self._expected)
        self._expected = max(self._expected, message.sequence + 1)
        self._take(message)

    def _take(self, message: ToClient) -> None:
        if isinstance(message, Pong):
            return
        if not self._answer.done():
            if isinstance(message, Opened | Error | Closed):
                self._answer.set_result(message)
        elif isinstance(message, Error) and message.code == "unknown_session":
            self._ended = True
            self.lose(f"{self.endpoint} does not know the session: it was started anew")
            return
        elif isinstance(message, Opened) and self._epoch and message.epoch != self._epoch:
            self.lose(f"{self.endpoint} was started anew")
            return
        if isinstance(message, Closed):
            self._ended = True
            self.lose(message.reason)
        self._deliver(message)
