"""A chat: an agent, in this very process, with a person or a pipe at the other end. No audio, no orchestrator.

Knows the session and the lines that are read; prints nothing, its `Watcher` does.
"""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from antiphon import exit_codes
from antiphon.own_nodes import OwnNodes
from antiphon.own_nodes import Watcher as NodeWatcher
from antiphon.terminal import Lines
from antiphon.text_session import LEFT, TextSession
from antiphon.text_session import Watcher as SessionWatcher
from orchestrator.events import ErrorOccurred, TurnMetrics
from orchestrator.factory import AgentFactory, SessionInfo
from orchestrator.nodes import NodePool
from protocol.endpoint import IPC, MAX_IPC_PATH
from protocol.errors import AntiphonError, TooLarge
from protocol.ids import new_epoch, new_session_id
from protocol.ingest import FROM_CLIENT, Close, Interrupt, Open, Text
from protocol.limits import LINGER_MS, MAX_TEXT_LENGTH
from protocol.sockets import new_context

SWEEP_S = 0.05  # as an orchestrator does
OPEN_S = 1.0  # a turn may stay open while the agent waits for the next: it has asked something in between
AGAIN_S = 2.0  # a second Ctrl-C within this time ends the chat
MAX_PRESSED = 2  # Ctrl-C, with nothing happening; then what runs is cut off
QUIT = "/quit"
FOLDER, SOCKET = "antiphon-chat-", "nodes"


class Watcher(SessionWatcher, NodeWatcher, Protocol):
    """Who wants to know how it goes."""

    def asks(self) -> None:
        """The user may say something now."""

    def asked(self, text: str) -> None:
        """The user has said this."""

    def noted(self, text: str) -> None:
        """Something about the chat itself."""

    def leaves(self) -> None:
        """The chat is about to end: the agent's tasks are left."""


class Chat:
    """`run()` it once, in the main thread. Each line is a turn, and waits until the last one was answered.

    Ctrl-C interrupts the agent; two within `AGAIN_S`, SIGTERM, SIGHUP, `QUIT` and the end of the lines end the chat.
    With `strict`, a turn that failed makes for another exit code.
    """

    def __init__(self, lines: Lines, watcher: Watcher, *, strict: bool) -> None:
        self._lines = lines
        self._watcher = watcher
        self._strict = strict
        self._session: TextSession
        self._nodes: OwnNodes
        self._sequence = 0
        self._changed = asyncio.Event()
        self._sweeping: asyncio.Task[None]
        self._leaving = False
        self._ended_by_itself = False
        self._interrupted_at = 0.0
        self._pressed = 0  # Ctrl-C, since the loop last took one
        self._twice_interrupted = False
        self._error: AntiphonError | None = None  # the last one
        self._unanswered = 0  # turns that have not ended
        self._failed = False  # a turn was not answered

    def leave(self) -> None:
        """End the chat soon. Safe to repeat, and before `run()`."""
        self._leaving = True
        self._changed.set()

    async def run(self, factory: AgentFactory, opening: Open, modules: Path) -> int:
        """Hold the conversation, and leave nothing behind; returns the exit code.

        Raises what keeps it from beginning. `modules`: where the agent's file is. Cancelling ends it at once.
        """
        opening = _checked(opening)
        async with self._running_nodes(modules) as pool:
            agent = await factory(SessionInfo(opening.session, opening.user, dict(opening.metadata)))
            agent.on("error", self._note_error)
            agent.on("metrics", self._note_turn)
            self._session = session = TextSession(
                opening, agent, pool, self._nodes, self._watcher, self._changed.set, new_epoch()
            )
            await session.open()
            self._catch_signals()
            try:
                await self._converse()
            finally:
                await self._hang_up()
        return self._exit_code()

    # --- the conversation -------------------------------------------------------------------------------------------

    async def _converse(self) -> None:
        self._watcher.noted("Ctrl-C interrupts the agent. /quit, Ctrl-D, or Ctrl-C twice end the chat.")
        await self._until_rest()
        while (line := await self._next_line()) is not None and line.strip() != QUIT:
            if line.strip():
                await self._ask(line)
                await self._until_rest()

    async def _next_line(self) -> str | None:
        """What the user says; None: the chat is over."""
        if self._over:
            return None
        self._watcher.asks()
        reading = asyncio.create_task(self._lines.read(), name="the next line")
        reading.add_done_callback(lambda _: self._changed.set())
        try:
            while not reading.done() and not self._over:
                await self._change()
                if self._session.at_rest:  # what the agent has said of itself is complete
                    self._lines.show()
            return reading.result() if reading.done() else None
        finally:
            reading.cancel()

    async def _ask(self, text: str) -> None:
        self._watcher.asked(text)
        self._interrupted_at = 0.0
        if len(text) > MAX_TEXT_LENGTH:
            self._session.tell(TooLarge(f"that has {len(text)} characters; a turn has at most {MAX_TEXT_LENGTH}"))
            return
        try:
            await self._nodes.ensure_again()
        except AntiphonError as error:
            self._session.report(error)
        self._unanswered += 1
        self._say(Text, text)

    async def _until_rest(self) -> None:
        """Until the agent has nothing to say or do, and the turn has ended, or nothing more comes of it."""
        rests_since = time.monotonic()
        while not self._over:
            if not self._session.at_rest:
                rests_since = time.monotonic()
            elif not self._unanswered or time.monotonic() - rests_since > OPEN_S:
                return
            await self._change()

    async def _change(self) -> None:
        """Wait until something may be different."""
        self._changed.clear()
        waiting = asyncio.create_task(self._changed.wait())
        await asyncio.wait({waiting, self._sweeping}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self._sweeping.done():
            self._sweeping.result()  # raises: without it nobody would notice a node's death

    @property
    def _over(self) -> bool:
        return self._leaving or self._session.closed

    async def _hang_up(self) -> None:
        self._ended_by_itself = self._session.closed
        self._leaving = True
        if not self._session.closed:
            self._watcher.leaves()
            self._say(Close, LEFT)
        await self._session.wait_closed()

    def _say(self, kind: Any, *fields: Any) -> None:
        self._sequence += 1
        self._session.receive(kind(self._session.id, 0, self._sequence, *fields))

    # --- how it ends ------------------------------------------------------------------------------------------------

    def _note_error(self, event: ErrorOccurred) -> None:
        self._error = event.error

    def _note_turn(self, event: TurnMetrics) -> None:
        self._unanswered -= 1
        self._failed = self._failed or event.outcome == "failed"

    def _exit_code(self) -> int:
        if self._twice_interrupted:
            return exit_codes.INTERRUPTED
        if self._ended_by_itself and self._error is not None:
            return exit_codes.of(self._error)
        return exit_codes.FAILED if self._failed and self._strict else exit_codes.OK

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()

        def interrupt(_number: int, _frame: FrameType | None) -> None:
            self._pressed += 1
            if self._leaving or self._pressed > MAX_PRESSED:  # on_exit takes too long, or a function blocks the loop
                raise KeyboardInterrupt
            loop.call_soon_threadsafe(self._interrupt)

        signal.signal(signal.SIGINT, interrupt)
        loop.add_signal_handler(signal.SIGTERM, self.leave)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
            loop.add_signal_handler(signal.SIGHUP, self.leave)

    def _interrupt(self) -> None:
        self._pressed = 0
        now = time.monotonic()
        if now - self._interrupted_at < AGAIN_S:
            self._twice_interrupted = True
            self.leave()
            return
        self._interrupted_at = now
        if self._session.at_rest:
            self._watcher.noted("Ctrl-C again ends the chat.")
            self._changed.set()
        else:
            self._say(Interrupt)

    # --- its nodes --------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _running_nodes(self, modules: Path) -> AsyncIterator[NodePool]:
        with tempfile.TemporaryDirectory(prefix=FOLDER, dir=_short_folder()) as folder:
            endpoint = f"{IPC}{folder}/{SOCKET}"
            context = new_context()
            pool = NodePool(context, "chat", new_epoch())
            self._nodes = OwnNodes(pool, endpoint, Path(folder), modules, self._watcher)
            self._sweeping = asyncio.create_task(self._sweep(pool), name="sweep")
            try:
                pool.socket.bind(endpoint)
                pool.socket.start()
                yield pool
            finally:
                self._sweeping.cancel()
                await asyncio.wait({self._sweeping})
                pool.socket.close(LINGER_MS)  # before the nodes leave: nobody is to wonder where they are
                await self._nodes.close()
                context.term()

    async def _sweep(self, pool: NodePool) -> None:
        while True:
            pool.sweep()
            self._changed.set()
            await asyncio.sleep(SWEEP_S)


def opening_of(user: str, metadata: dict[str, str]) -> Open:
    """What a client would send to begin the conversation."""
    return Open(new_session_id(), 0, 0, user=user, metadata=metadata)


def _checked(opening: Open) -> Open:
    """As an orchestrator would read it. Raises `Malformed`, which names the field."""
    read = FROM_CLIENT.decode(FROM_CLIENT.encode(opening))
    assert isinstance(read, Open)
    return read


def _short_folder() -> str | None:
    """Where the socket's folder is made: in /tmp if the path would otherwise be too long for one. None: as usual."""
    longest = f"{tempfile.gettempdir()}/{FOLDER}12345678/{SOCKET}"
    return "/tmp" if len(longest.encode()) > MAX_IPC_PATH else None  # noqa: S108  # the folder in it is 0700
