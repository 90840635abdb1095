"""A whole conversation in one event loop: a real orchestrator hub, real nodes with real sockets, real clients.

The nodes run in the test's own loop, so that a test can hold, fail and inspect their engines; everything between them
and the orchestrator is what runs in production. vad, llm and tts are the embedded engines; stt is scripted, because
pocketsphinx takes processes of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
import wave
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import msgpack
import zmq

from orchestrator.agent import VoiceAgent
from orchestrator.factory import AgentFactory, SessionInfo
from orchestrator.hub import Addresses, Hub
from protocol.client import Client, Event
from protocol.engine import EngineOptions, Service
from protocol.errors import EngineError, OptionError
from protocol.ids import new_session_id
from services.engine import Engine, SttEngine, SttStream
from services.llm import rule
from services.runtime.loading import serving_of
from services.runtime.node import Node
from services.tts import espeak
from services.vad import silero
from tests.support import wait_for

EXAMPLES = Path(__file__).parent.parent.parent / "examples" / "audio"
DEADLINE_S = 20.0
until = partial(wait_for, timeout_s=DEADLINE_S)


class STT(EngineOptions, frozen=True, kw_only=True):
    """A recogniser that knows what it will hear."""

    service: ClassVar[Service] = "stt"
    engine: ClassVar[str] = "scripted"

    text: str = "hello"
    final_after: str = ""  # name of an event of the engine that a final waits for
    fail: bool = False
    forbidden: str = ""


class ScriptedStream(SttStream):
    """Says a partial with the first audio and `text` as the final; notes how much it was given."""

    def __init__(self, engine: ScriptedStt, options: STT) -> None:
        self.engine = engine
        self.options = options
        self.bytes = 0

    async def push(self, pcm: bytes) -> str | None:
        first = not self.bytes
        self.bytes += len(pcm)
        return self.options.text.split()[0] if first and self.options.text else None

    async def flush(self) -> tuple[str, float]:
        if self.options.final_after:
            await self.engine.gates[self.options.final_after].wait()
        if self.options.fail:
            raise EngineError("the recogniser is broken", category="retryable")
        self.engine.segments.append(self.bytes)
        self.bytes = 0
        return self.options.text, 1.0

    async def close(self) -> None:
        self.engine.closed += 1


class ScriptedStt(SttEngine[STT]):
    """Its streams."""

    options_type = STT
    sample_rates = (16_000,)

    def __init__(self) -> None:
        self.gates: dict[str, asyncio.Event] = {}
        self.segments: list[int] = []  # bytes of each segment that had its final
        self.opened = self.closed = 0

    async def check(self, options: STT) -> None:
        if options.forbidden:
            raise OptionError("scripted.STT", "forbidden", options.forbidden, "allowed is nothing")

    async def open(self, options: STT, sample_rate: int) -> SttStream:
        self.opened += 1
        return ScriptedStream(self, options)


class World:
    """An orchestrator and one node of each service. Use it as a context manager."""

    def __init__(self, factory: AgentFactory | None = None, *, max_sessions: int = 100, slots: int = 50) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="world")
        self.stt = ScriptedStt()
        self.nodes: dict[str, Node] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._factory = factory or self.agent
        self._max_sessions = max_sessions
        self._slots = slots
        self.hub: Hub

    async def agent(self, session: SessionInfo) -> VoiceAgent:
        """The default factory: `metadata` may name options of the scripted stt."""
        options: dict[str, Any] = {
            key: value for key, value in session.metadata.items() if key in STT.__struct_fields__
        }
        if "fail" in options:
            options["fail"] = options["fail"] == "yes"
        return VoiceAgent(instructions="You are Ann.", stt=STT(**options))

    async def __aenter__(self) -> Self:
        self.hub = Hub(
            Addresses(self.address("ingest"), self.address("nodes"), self.address("control")),
            factory=self._factory,
            name="hub",
            agent_name="",
            max_sessions=self._max_sessions,
        )
        self._running["hub"] = asyncio.create_task(self.hub.run(0.0))
        engines: dict[Service, Engine[Any]] = {
            "vad": silero.Engine(),
            "stt": self.stt,
            "llm": rule.Engine(),
            "tts": espeak.Engine(),
        }
        for service, engine in engines.items():
            self.start_node(service, engine)
        await until(
            lambda: all(node.state == "ready" for node in self.hub.pool.nodes) and len(self.hub.pool.nodes) == 4
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        for node in self.nodes.values():
            node.drain()
        self.hub.stop()
        results = await asyncio.gather(*self._running.values(), return_exceptions=True)
        self.folder.cleanup()
        for result in results:
            if isinstance(result, Exception):
                raise result

    def address(self, kind: str) -> str:
        """Of one of the hub's sockets."""
        return f"ipc://{self.folder.name}/hub.{kind}"

    def start_node(self, service: Service, engine: Engine[Any], name: str = "") -> Node:
        """One more node, in this loop."""
        name = name or f"{service}-1"
        node = Node(
            service=service,
            engine=engine,
            serving=serving_of(service, engine),
            name=name,
            slots=self._slots,
            connect=(self.address("nodes"),),
        )
        self.nodes[name] = node
        self._running[name] = asyncio.create_task(node.run(0.0, lambda: None))
        return node

    def connect(self, **options: Any) -> Any:
        """A client of this world: `async with await world.connect() as client`."""
        return Client.connect(self.address("ingest"), **options)

    @contextlib.asynccontextmanager
    async def raw(self) -> AsyncIterator[RawClient]:
        """A client that sends whatever it is given."""
        raw = RawClient(self.address("ingest"))
        try:
            yield raw
        finally:
            raw.close()

    async def until_quiet(self) -> None:
        """No session is left, and no stream on any node."""
        await until(lambda: not self.hub.ingest.sessions and not any(node.used for node in self.nodes.values()))
        assert not any(node.streams for node in self.hub.pool.nodes)


class RawClient:
    """A bare DEALER and `msgpack`: what somebody without our code would send."""

    def __init__(self, address: str) -> None:
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.connect(address)
        self.session = new_session_id()
        self._sequence = 0

    def send(self, kind: str, *fields: Any) -> None:
        """A message of this client's session."""
        self.socket.send(msgpack.packb([kind, self.session, 0, self._sequence, *fields]))
        self._sequence += 1

    def open(self, *, version: tuple[int, int] = (1, 0), rate: int = 16_000) -> None:
        """Open the session."""
        self.send("open", list(version), [rate, 1, "pcm_s16le"], [16_000, 1, "pcm_s16le"])

    async def receive(self, kind: str) -> list[Any]:
        """The next message of this kind; others are dropped."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            while self.socket.poll(0):
                message: list[Any] = msgpack.unpackb(self.socket.recv())
                if message[0] == kind:
                    return message
            await asyncio.sleep(0.002)
        raise AssertionError(f"no {kind!r} within {DEADLINE_S:g} s")

    def close(self) -> None:
        """Gone, without a word."""
        self.socket.close()
        self._context.term()


async def event(client: Client, wanted: Callable[[Any], bool]) -> Any:
    """The client's next event for which this holds; others are dropped."""
    async with asyncio.timeout(DEADLINE_S):
        async for found in client:
            if wanted(found):
                return found
    raise AssertionError("the session ended before that")


async def events_until(client: Client, last: Callable[[Any], bool]) -> list[Event]:
    """All events up to and with the first for which this holds."""
    found: list[Event] = []
    async with asyncio.timeout(DEADLINE_S):
        async for one in client:
            found.append(one)
            if last(one):
                return found
    raise AssertionError("the session ended before that")


def speech(name: str = "01-slt-hello", silence_s: float = 1.5) -> bytes:
    """A shipped utterance at 16 kHz, followed by silence."""
    with wave.open(str(EXAMPLES / f"{name}.wav")) as file:
        return file.readframes(file.getnframes()) + bytes(int(32_000 * silence_s))
