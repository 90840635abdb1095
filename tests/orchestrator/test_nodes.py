"""The node pool: where streams are opened, how a lost node is found, and what hostile peers can't do.

Nodes are real processes where their process matters. Elsewhere they are real sockets that say what a test has them say.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from orchestrator.nodes import Node, NodePool
from orchestrator.streams import NodeStream, StreamQueue
from protocol.engine import EngineSpec
from protocol.errors import AntiphonError, NodeLost, NoNode, Overloaded
from protocol.limits import MAX_BAD_MESSAGES, NODE_DROP_BYTES, NODE_TIMEOUT_MS
from protocol.node import (
    FROM_NODE,
    TO_NODE,
    AudioIn,
    Chunk,
    CloseStream,
    FromNode,
    Generate,
    Heartbeat,
    NodeState,
    OpenStream,
    Refused,
    Register,
    StreamDone,
    StreamError,
    StreamOpened,
    ToNode,
    Welcome,
)
from protocol.sockets import DealerSocket, Sent, new_context
from tests.engines.scripted_llm import LLM
from tests.engines.scripted_stt import STT
from tests.nodes import SWEEP_S, find, node_pool, node_process, ready
from tests.support import run_async, wait_for

SPEC = EngineSpec("llm", "some")
FOUND_S = (NODE_TIMEOUT_MS / 1000) + 2 * SWEEP_S + 0.25  # and what a busy machine adds


class Peer:
    """A node's socket, with nothing behind it: says what it is told, and keeps what it hears."""

    def __init__(self, socket: DealerSocket, name: str, heard: list[ToNode]) -> None:
        self._socket = socket
        self.name = name
        self.heard = heard

    def say(self, message: FromNode) -> None:
        self.say_bytes(FROM_NODE.encode(message))

    def say_bytes(self, blob: bytes) -> None:
        self._socket.send(blob)

    def register(self, slots: int = 2, state: NodeState = "ready", version: tuple[int, int] = (1, 0)) -> None:
        self.say(Register(0, 0, 0, "llm", "some", self.name, "epoch", 1, "here", slots, state, [], version))

    def beat(self, used: int, state: NodeState = "ready") -> None:
        self.say(Heartbeat(0, 0, 0, state, used))

    def streams(self) -> list[int]:
        """The numbers of the streams that it was asked for."""
        return [message.stream for message in self.heard if isinstance(message, OpenStream)]

    async def hears(self, kind: type[ToNode]) -> ToNode:
        """Wait for the first message of a kind."""
        await wait_for(lambda: any(isinstance(message, kind) for message in self.heard), what=kind.__name__)
        return next(message for message in self.heard if isinstance(message, kind))


@asynccontextmanager
async def peer(endpoint: str, name: str) -> AsyncIterator[Peer]:
    """Connect without registering."""
    context = new_context()
    heard: list[ToNode] = []
    socket = DealerSocket(
        context,
        f"{name}.epoch".encode(),
        lambda blob: heard.append(TO_NODE.decode(blob)),
        drop_bytes=NODE_DROP_BYTES,
    )
    found = Peer(socket, name, heard)
    socket.connect(endpoint)
    socket.start()
    try:
        await wait_for(lambda: socket.send(b"") is Sent.OK, what="a connection")
        await found.hears(Refused)
        found.heard.clear()
        yield found
    finally:
        socket.close()
        context.term()


class World:
    """A pool and peers that are registered at it."""

    def __init__(self, pool: NodePool, endpoint: str, peers: list[Peer]) -> None:
        self.pool = pool
        self.endpoint = endpoint
        self.peers = peers

    def node(self, name: str) -> Node:
        node = find(self.pool, name)
        assert node is not None
        return node

    def open(self, handler: Handler | None = None, *, probe: bool = False) -> NodeStream:
        return self.pool.open(SPEC, handler or Handler(), session="session-1", generation=1, probe=probe)


class Handler:
    """Keeps what its stream says."""

    def __init__(self) -> None:
        self.messages: list[FromNode] = []
        self.error: AntiphonError | None = None

    def on_stream_message(self, stream: NodeStream, message: FromNode) -> None:
        self.messages.append(message)

    def on_stream_failed(self, stream: NodeStream, error: AntiphonError) -> None:
        self.error = error


class BrokenHandler(Handler):
    """A session with a bug."""

    def on_stream_failed(self, stream: NodeStream, error: AntiphonError) -> None:
        raise RuntimeError("a bug")


def with_peers(folder: Path, names: tuple[str, ...], test: Callable[[World], Awaitable[None]], slots: int = 2) -> None:
    """Run a test with a pool and these peers, registered, with so many slots each."""

    async def scenario() -> None:
        endpoint = f"ipc://{folder}/nodes"
        async with node_pool(endpoint) as pool:
            await connected(World(pool, endpoint, []), names)

    async def connected(world: World, left: tuple[str, ...]) -> None:
        if not left:
            await test(world)
            return
        async with peer(world.endpoint, left[0]) as found:
            found.register(slots)
            await found.hears(Welcome)
            world.peers.append(found)
            await connected(world, left[1:])

    run_async(scenario())


# --- choosing ---------------------------------------------------------------------------------------------------------


def test_streams_are_spread_over_the_least_loaded_nodes(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        a, b = world.peers
        assert [world.open().node.name for _ in range(4)] == ["a", "b", "a", "b"]
        await wait_for(lambda: len(a.streams()) == len(b.streams()) == 2)

    with_peers(tmp_path, ("a", "b"), test)


def test_what_other_orchestrators_use_counts(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.peers[0].beat(used=3)
        await wait_for(lambda: world.node("a").used == 3)
        assert [world.open().node.name for _ in range(4)] == ["b", "b", "b", "a"]

    with_peers(tmp_path, ("a", "b"), test, slots=4)


def test_a_slot_is_free_as_soon_as_its_stream_is_closed_and_not_a_heartbeat_later(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        streams = [world.open(), world.open()]
        world.peers[0].beat(used=2)
        await wait_for(lambda: world.node("a").used == 2)
        with pytest.raises(
            Overloaded, match=r"all 2 slots of llm/some on 1 node\(s\) are taken; .*antiphon scale llm=2"
        ):
            world.open()
        streams[0].close()
        world.open()

    with_peers(tmp_path, ("a",), test)


def test_probes_take_no_slot(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        for _ in range(3):
            world.open(probe=True)
        world.open()
        world.open()

    with_peers(tmp_path, ("a",), test)


def test_without_a_node_that_is_ready_the_error_names_the_command_that_starts_one(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        with pytest.raises(NoNode, match="no node serves tts/other: start one with `antiphon tts --engine other`"):
            world.pool.open(EngineSpec("tts", "other"), Handler(), session="session-1", generation=1)
        world.peers[0].beat(used=0, state="draining")
        await wait_for(lambda: world.node("a").state == "draining")
        with pytest.raises(NoNode):
            world.open()

    with_peers(tmp_path, ("a",), test)


def test_a_stream_stays_on_its_node_whatever_its_load(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        a, _ = world.peers
        stream = world.open()
        a.beat(used=2)
        await wait_for(lambda: world.node("a").used == 2)
        stream.send(Generate(0, 0, 0, []))
        generated = await a.hears(Generate)
        assert (generated.stream, generated.generation, generated.sequence) == (stream.id, 1, 1)

    with_peers(tmp_path, ("a", "b"), test)


def test_a_stream_that_a_full_node_refuses_is_opened_on_another_and_nobody_hears_of_it(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        a, b = world.peers
        handler = Handler()
        stream = world.open(handler)
        await a.hears(OpenStream)
        a.say(StreamError(stream.id, 1, 0, "overloaded", "retryable", "another orchestrator was faster"))
        await b.hears(OpenStream)
        b.say(StreamOpened(stream.id, 1, 0))
        await wait_for(lambda: handler.messages)
        assert stream.node.name == "b"
        assert handler.error is None
        assert world.node("a").load == 1
        assert not world.node("a").streams
        a.beat(used=0)
        await wait_for(lambda: world.node("a").load == 0)

    with_peers(tmp_path, ("a", "b"), test)


def test_when_every_node_refuses_the_stream_is_overloaded(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        handler = Handler()
        stream = world.open(handler)
        for refusing in world.peers:
            await refusing.hears(OpenStream)
            refusing.say(StreamError(stream.id, 1, 0, "overloaded", "retryable", "full"))
        await wait_for(lambda: handler.error)
        assert isinstance(handler.error, Overloaded)
        assert stream.closed

    with_peers(tmp_path, ("a", "b"), test)


# --- losing -----------------------------------------------------------------------------------------------------------


def test_the_handlers_of_a_killed_node_are_told_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        endpoint = f"ipc://{tmp_path}/nodes"
        async with node_pool(endpoint) as pool:
            with node_process(tmp_path, "stt", endpoint) as process:
                await ready(pool, process.name)
                handlers = [Handler() for _ in range(3)]
                streams = [
                    pool.open(STT().spec(), each, session="session-1", generation=0, sample_rate=16_000)
                    for each in handlers
                ]
                await wait_for(lambda: all(each.messages for each in handlers))
                process.kill()
                await wait_for(lambda: process.exit_code is not None)
                began = time.monotonic()
                while handlers[0].error is None:  # as audio does: a frame every 20 ms
                    streams[0].send(AudioIn(0, 0, 0, bytes(640)))
                    await asyncio.sleep(0.02)
                assert time.monotonic() - began < 0.2
                await wait_for(lambda: all(isinstance(each.error, NodeLost) for each in handlers), 0.1)
                assert not pool.nodes

    run_async(scenario())


def test_a_killed_node_is_found_without_traffic(tmp_path: Path) -> None:
    async def scenario() -> None:
        endpoint = f"ipc://{tmp_path}/nodes"
        async with node_pool(endpoint) as pool:
            with node_process(tmp_path, "llm", endpoint) as process:
                await ready(pool, process.name)
                process.kill()
                await wait_for(lambda: not pool.nodes, 0.6, "the end of the node")  # well before it counts as silent

    run_async(scenario())


def test_a_frozen_node_is_found_and_registers_anew_and_nothing_stale_is_accepted(tmp_path: Path) -> None:
    async def scenario() -> None:
        endpoint = f"ipc://{tmp_path}/nodes"
        async with node_pool(endpoint) as pool:
            with node_process(tmp_path, "llm", endpoint, slots=2) as process:
                node = await ready(pool, process.name)
                handler = Handler()
                options = LLM(tokens=("stale",) * 1_000, delay_s=0.01)
                stream = pool.open(options.spec(), handler, session="session-1", generation=1)
                await wait_for(lambda: handler.messages)
                stream.send(Generate(0, 0, 0, []))
                await wait_for(lambda: len(handler.messages) > 1)
                process.freeze()
                await wait_for(lambda: handler.error, FOUND_S, "the loss of the frozen node")
                assert isinstance(handler.error, NodeLost)
                had = len(handler.messages)
                process.thaw()
                again = await ready(pool, process.name, 3)
                assert again is not node
                beats = again.heard
                await wait_for(lambda: again.heard > beats + 0.25, what="two heartbeats")
                assert again.used == 0
                assert len(handler.messages) == had

    run_async(scenario())


def test_a_handler_that_raises_does_not_keep_the_others_from_hearing(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        handlers = [BrokenHandler(), Handler(), BrokenHandler(), Handler()]
        for handler in handlers:
            world.open(handler)
        await wait_for(lambda: not world.pool.nodes, FOUND_S, "the loss of a silent node")
        assert isinstance(handlers[1].error, NodeLost)
        assert isinstance(handlers[3].error, NodeLost)

    with_peers(tmp_path, ("a",), test, slots=4)


def test_a_loop_that_was_busy_itself_takes_no_node_for_silent(tmp_path: Path) -> None:
    async def scenario() -> None:
        endpoint = f"ipc://{tmp_path}/nodes"
        async with node_pool(endpoint) as pool:
            with node_process(tmp_path, "llm", endpoint) as process:
                node = await ready(pool, process.name)
                time.sleep(NODE_TIMEOUT_MS / 1000 + 0.3)  # noqa: ASYNC251  # a user's hook that blocks
                beats = time.monotonic()
                await wait_for(lambda: node.heard > beats + 0.1, 2, "a heartbeat after it")
                assert pool.nodes == [node]

    run_async(scenario())


def test_a_stream_with_a_hole_is_lost_and_closed_at_its_node(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        [a] = world.peers
        handler = Handler()
        stream = world.open(handler)
        await a.hears(OpenStream)
        a.say(StreamOpened(stream.id, 1, 0))
        a.say(Chunk(stream.id, 1, 2, "the second"))
        await a.hears(CloseStream)
        assert isinstance(handler.error, NodeLost)
        assert len(handler.messages) == 1

    with_peers(tmp_path, ("a",), test)


def test_nothing_is_opened_on_a_node_that_has_just_been_found_lost(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.node("a").lost = True
        assert [world.open().node.name for _ in range(2)] == ["b", "b"]

    with_peers(tmp_path, ("a", "b"), test)


# --- waiting ----------------------------------------------------------------------------------------------------------


def test_a_queue_gives_a_stream_in_order_and_ends_with_it(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        [a] = world.peers

        async def answer() -> None:
            stream = (await a.hears(OpenStream)).stream
            a.say(StreamOpened(stream, 1, 0))
            a.say(Chunk(stream, 1, 1, "one"))
            a.say(StreamDone(stream, 1, 2))

        async with asyncio.TaskGroup() as group:
            group.create_task(answer())
            with StreamQueue() as queue:
                await queue.opened(lambda queue: world.pool.open(SPEC, queue, session="session-1", generation=1))
                assert [message.text async for message in queue if isinstance(message, Chunk)] == ["one"]
        assert not world.node("a").streams

    with_peers(tmp_path, ("a",), test)


def test_a_queue_that_nobody_answers_gives_up_and_closes_its_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.streams.OPEN_TIMEOUT_S", 0.1)

    async def test(world: World) -> None:
        with StreamQueue() as queue, pytest.raises(NodeLost, match=r"a \(llm/some\) did not answer within 0.1 s"):
            await queue.opened(lambda queue: world.pool.open(SPEC, queue, session="session-1", generation=1))
        await world.peers[0].hears(CloseStream)
        assert not world.node("a").streams

    with_peers(tmp_path, ("a",), test)


# --- hostile and foreign ----------------------------------------------------------------------------------------------


def test_a_node_of_another_version_is_told_both(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        async with peer(world.endpoint, "new") as found:
            found.register(version=(2, 0))
            refused = await found.hears(Refused)
            assert isinstance(refused, Refused)
            assert refused.code == "version"
            assert refused.message.startswith("new speaks protocol version 2, orchestrator-1 1")
            assert find(world.pool, "new") is None

    with_peers(tmp_path, (), test)


def test_who_has_not_registered_is_told_to(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        async with peer(world.endpoint, "stranger") as found:
            found.say(Chunk(1, 1, 0, "hello"))
            refused = await found.hears(Refused)
            assert isinstance(refused, Refused)
            assert refused.code == "unknown_node"

    with_peers(tmp_path, (), test)


def test_garbage_is_answered_a_hundred_times_and_harms_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test(world: World) -> None:
        handler = Handler()
        stream = world.open(handler)
        await world.peers[0].hears(OpenStream)
        async with peer(world.endpoint, "hostile") as found:
            for number in range(10 * MAX_BAD_MESSAGES):
                found.say_bytes(b"\xc1 garbage %d" % number)
            await wait_for(lambda: world.pool.bad_messages >= 10 * MAX_BAD_MESSAGES)
            found.register()
            await found.hears(Welcome)
            assert sum(isinstance(message, Refused) for message in found.heard) < MAX_BAD_MESSAGES
        world.peers[0].say(StreamOpened(stream.id, 1, 0))
        await wait_for(lambda: handler.messages)
        assert caplog.text.count("refused a message") <= 2

    with_peers(tmp_path, ("a",), test)


def test_a_node_may_send_kinds_that_only_a_newer_version_has(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        [a] = world.peers
        bad = world.pool.bad_messages
        a.say_bytes(b"\x94\xa6future\x00\x00\x00")
        await wait_for(lambda: world.pool.bad_messages == bad + 1)
        a.beat(used=1)
        await wait_for(lambda: world.node("a").used == 1)
        assert not any(isinstance(message, Refused) for message in a.heard)

    with_peers(tmp_path, ("a",), test)
