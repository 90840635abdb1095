"""The ingest client: a conversation with Antiphon from an asyncio program.

    async with await Client.connect("ipc:///run/antiphon/sockets/*.ingest") as client:
        await client.send_audio(pcm)
        async for event in client:
            ...

The command line, the gateway, the tests and users share it. It keeps credit, liveness and generations, and dials again
by itself when an orchestrator is lost. It plays and records nothing: what audio is for is its user's affair.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from protocol.audio import SAMPLE_BYTES, AudioFormat
from protocol.dial import dial
from protocol.errors import ConnectionLost, Malformed, SessionEnded, TooLarge
from protocol.ingest import (
    Audio,
    Close,
    Closed,
    Credit,
    FromClient,
    Interrupt,
    Open,
    Opened,
    Played,
    Text,
    ToClient,
)
from protocol.limits import MAX_TEXT_LENGTH
from protocol.line import RETRY_S, Line

CLOSE_S = 1.0  # for `close` to be answered


@dataclass(frozen=True, slots=True)
class Reconnected:
    """The orchestrator was lost, and the client has a new session. Its `Opened` follows."""

    session: str
    reason: str  # how the one before was lost, a phrase for a person


Event = ToClient | Reconnected


class Client:
    """One conversation. Made by `connect()`; all methods belong to the loop that made it.

    Iterating gives what the orchestrator sends, in order, beginning with `Opened` and ending after `Closed`; `credit`
    and `pong` are the client's own affair and not given. Events wait until they are read, however long.
    """

    opened: Opened  # the latest

    def __init__(self, endpoints: Sequence[str], opening: Open, reconnect_timeout_s: float) -> None:
        self._endpoints = endpoints
        self._opening = opening
        self._reconnect_timeout_s = reconnect_timeout_s
        self._line: Line | None = None  # None before the first session only
        self._ignored_before = 0  # on the lines before this one
        self._task: asyncio.Task[None] | None = None
        self._events: deque[Event] = deque()
        self._arrived = asyncio.Event()  # something to iterate over, or the end
        self._allowed = asyncio.Event()  # something may be sent that could not before, or the end
        self._session = ""
        self._generation = 0
        self._sent_bytes = 0
        self._until_ms = 0
        self._ended = False
        self._reason = ""
        self._failure: Exception | None = None

    @classmethod
    async def connect(
        cls,
        endpoint: str | Sequence[str],
        *,
        input: AudioFormat = AudioFormat(),  # noqa: B008  # frozen
        output: AudioFormat = AudioFormat(),  # noqa: B008
        user: str = "",
        metadata: dict[str, str] | None = None,
        reports_played: bool = False,
        open_timeout_s: float = 10.0,
        reconnect_timeout_s: float = 30.0,
    ) -> Self:
        """Open a session at one of the addresses: a random one, another if it does not answer.

        `endpoint`: an ipc path or pattern, a tcp address whose host may have several records, or a list of those.
        Raises `RemoteError` for a refusal (of any category: trying again is the caller's decision), `ConnectionLost`
        when nobody answers, `EndpointError`, `VersionMismatch`, `Malformed`. Cancelling closes what was opened.
        """
        input.check("input")
        output.check("output")
        opening = Open(
            "", 0, 0, input=input, output=output, reports_played=reports_played, user=user, metadata=metadata or {}
        )
        client = cls([endpoint] if isinstance(endpoint, str) else list(endpoint), opening, reconnect_timeout_s)
        client._adopt(await dial(client._endpoints, opening, open_timeout_s, retry_refusals=False))
        client._task = asyncio.get_running_loop().create_task(client._run(), name="antiphon-client")
        return client

    @property
    def session(self) -> str:
        """Id of the current session; another one after `Reconnected`."""
        return self._session

    @property
    def generation(self) -> int:
        """The newest generation that was seen in this session."""
        return self._generation

    @property
    def sent_ms(self) -> float:
        """Milliseconds of audio sent in the current session: the position of the next sample."""
        return self._opening.input.duration_ms(self._sent_bytes)

    @property
    def ignored(self) -> int:
        """Messages of kinds that this version does not know, or that could not be read."""
        return self._ignored_before + (self._line.ignored if self._line is not None else 0)

    @property
    def gaps(self) -> int:
        """Messages of the orchestrator that never arrived, in the current session."""
        return self._line.gaps if self._line is not None else 0

    # --- sending ----------------------------------------------------------------------------------------------------

    async def send_audio(self, pcm: bytes) -> None:
        """Send sound in frames of 20 ms (the last may be shorter), waiting for credit.

        `pcm`: whole samples of the input format. After a cancellation whole frames have been sent: `sent_ms` says how
        many. Raises `SessionEnded`, `ConnectionLost`, and `Malformed` for half a sample.
        """
        if len(pcm) % SAMPLE_BYTES:
            raise Malformed(f"audio of {len(pcm)} bytes; 16-bit samples need an even number")
        size = self._opening.input.frame_bytes()
        for start in range(0, len(pcm), size):
            await self._send_frame(bytes(pcm[start : start + size]))

    async def send_text(self, text: str) -> None:
        """Send a turn in writing. Raises `SessionEnded`, `ConnectionLost`, `Malformed` (empty) and `TooLarge`."""
        if not text:
            raise Malformed("a text turn is empty")
        if len(text) > MAX_TEXT_LENGTH:
            raise TooLarge(f"a text turn of {len(text)} characters; at most {MAX_TEXT_LENGTH} may be sent")
        while not self._current().send(Text("", self._generation, 0, text)):
            await self._wait_allowed(RETRY_S)

    def interrupt(self) -> None:
        """Stop the agent's reply. Raises `SessionEnded` or `ConnectionLost`."""
        self._control(Interrupt("", self._generation, 0))

    def report_played(self, generation: int, played_ms: float) -> None:
        """So much of this generation's audio has been played. Raises `SessionEnded` or `ConnectionLost`."""
        self._control(Played("", generation, 0, max(0, int(played_ms))))

    async def _send_frame(self, frame: bytes) -> None:
        while True:
            line = self._current()
            if self._opening.input.duration_ms(self._sent_bytes + len(frame)) > self._until_ms:
                await self._wait_allowed(None)
            elif line.send(Audio("", self._generation, 0, frame)):
                self._sent_bytes += len(frame)
                return
            else:
                await self._wait_allowed(RETRY_S)

    def _control(self, message: FromClient) -> None:
        self._current().send_surely(message)

    def _current(self) -> Line:
        """The line to send on; raises what ended the conversation."""
        if self._failure is not None:
            raise self._failure
        if self._ended or self._line is None:
            raise SessionEnded(f"session {self._session} has ended: {self._reason or 'it was closed here'}")
        return self._line

    async def _wait_allowed(self, timeout_s: float | None) -> None:
        """Until credit came, the line changed, or the end; at most so long."""
        self._allowed.clear()
        try:
            async with asyncio.timeout(timeout_s):
                await self._allowed.wait()
        except TimeoutError:
            return

    # --- events -----------------------------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """The next event. Raises `ConnectionLost` when no orchestrator was found again. Safe to cancel."""
        while True:
            while self._events:
                event = self._events.popleft()
                if not (isinstance(event, Audio) and event.generation < self._generation):
                    return event
            if self._failure is not None:
                raise self._failure
            if self._ended:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()

    def _on_message(self, message: ToClient) -> None:
        if isinstance(message, Opened):
            self.opened = message
        if isinstance(message, Opened | Credit):
            self._until_ms = max(self._until_ms, message.until_ms)
            self._allowed.set()
        if isinstance(message, Audio) and message.generation < self._generation:
            return
        self._generation = max(self._generation, message.generation)
        if not isinstance(message, Credit):
            self._events.append(message)
            self._arrived.set()
        if isinstance(message, Closed):
            self._end(message.reason)

    # --- its life ---------------------------------------------------------------------------------------------------

    async def close(self, reason: str = "") -> None:
        """Say goodbye and wait shortly for `closed`. Safe to repeat; cancelling closes at once."""
        task = self._task
        if task is None:
            return
        try:
            if (
                not self._ended
                and self._line is not None
                and self._line.send(Close("", self._generation, 0, reason[:200]))
            ):
                await asyncio.wait([task], timeout=CLOSE_S)
        finally:
            self._end(reason)
            task.cancel()
        await asyncio.wait([task])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self) -> None:
        """Watch the line and replace it when it is lost, until the end."""
        try:
            while not self._ended and self._line is not None:
                lost = await self._line.watch()
                if not self._ended:
                    await self._reconnect(lost)
        except Exception as error:  # noqa: BLE001  # raised to whoever iterates or sends
            self._failure = error
        finally:
            self._end("")

    async def _reconnect(self, reason: str) -> None:
        """A new session, here or elsewhere. Resuming the old one belongs here: a token in `_opening`, and its audio."""
        assert self._line is not None
        lost = self._line
        lost.close()
        self._events = deque(event for event in self._events if not isinstance(event, Audio))
        try:
            line = await dial(
                self._endpoints, self._opening, self._reconnect_timeout_s, retry_refusals=True, last=lost.endpoint
            )
        except ConnectionLost as error:
            raise ConnectionLost(f"{reason}; {error}") from None
        self._events.append(Reconnected(line.session, reason))
        self._adopt(line)

    def _adopt(self, line: Line) -> None:
        """From now on this line is the session; positions and generations start again."""
        self._ignored_before = self.ignored
        self._line = line
        self._session = line.session
        self._sent_bytes = self._until_ms = self._generation = 0
        line.deliver_to(self._on_message)

    def _end(self, reason: str) -> None:
        if self._ended:
            return
        self._ended = True
        self._reason = reason
        if self._line is not None:
            self._line.close()
        self._arrived.set()
        self._allowed.set()
