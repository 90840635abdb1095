"""The socket loop: nothing that is there goes unread, nobody is starved, and a peer that is gone is an answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq

from protocol.limits import DRAIN_MESSAGES, SEND_HIGH_WATER_MARK
from protocol.sockets import DealerSocket, RouterSocket, Sent, new_context, shared_context
from tests.protocol.loop import run, until

LIMIT = 100_000


class Router:
    """A bound socket that keeps what comes."""

    def __init__(self, endpoint: str) -> None:
        self.received: list[tuple[bytes, bytes]] = []
        self.bad: list[tuple[bytes, int]] = []
        self.socket = RouterSocket(
            shared_context(), self.on_message, drop_bytes=LIMIT, on_bad_frames=lambda *bad: self.bad.append(bad)
        )
        self.bound = self.socket.bind(endpoint)

    def on_message(self, identity: bytes, blob: bytes) -> None:
        self.received.append((identity, blob))

    @property
    def blobs(self) -> list[bytes]:
        return [blob for _, blob in self.received]


class Dealer:
    """A connected socket that keeps what comes."""

    def __init__(self, endpoint: str, identity: bytes = b"d") -> None:
        self.received: list[bytes] = []
        self.socket = DealerSocket(shared_context(), identity, self.on_message, drop_bytes=LIMIT)
        self.socket.connect(endpoint)

    def on_message(self, blob: bytes) -> None:
        self.received.append(blob)


@contextmanager
def raw(endpoint: str, identity: bytes = b"raw") -> Iterator[zmq.Socket[bytes]]:
    """A bare DEALER."""
    socket = shared_context().socket(zmq.DEALER)
    socket.linger = 0
    socket.setsockopt(zmq.IDENTITY, identity)
    socket.connect(endpoint)
    try:
        yield socket
    finally:
        socket.close()


@pytest.fixture
def endpoint(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/a"


def test_messages_go_both_ways_in_order(endpoint: str) -> None:
    async def conversation() -> None:
        router, dealer = Router(endpoint), Dealer(endpoint, b"ann")
        router.socket.start()
        dealer.socket.start()
        await until(lambda: dealer.socket.send(b"0") is Sent.OK)
        for number in range(1, 500):
            assert dealer.socket.send(b"%d" % number) is Sent.OK
        await until(lambda: len(router.received) == 500)
        assert router.received == [(b"ann", b"%d" % number) for number in range(500)]
        for number in range(500):
            assert router.socket.send(b"ann", b"%d" % number) is Sent.OK
        await until(lambda: len(dealer.received) == 500)
        assert dealer.received == router.blobs
        dealer.socket.close()
        router.socket.close()

    run(conversation())


def test_what_is_there_before_the_start_is_read(endpoint: str) -> None:
    async def conversation() -> None:
        router = Router(endpoint)
        with raw(endpoint) as peer:
            peer.send(b"early")
            # Wait until it has arrived, in a way that does not touch the socket's own edge.
            await until(lambda: bool(int(router.socket._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN))
            router.socket.start()
            await until(lambda: router.blobs == [b"early"])
        router.socket.close()

    run(conversation())


def test_a_dealer_that_only_ever_sent_hears_its_answers(endpoint: str) -> None:
    async def conversation() -> None:
        router = Router(endpoint)
        router.socket.start()
        for number in range(20):
            dealer = Dealer(endpoint, b"d%d" % number)
            dealer.socket.start()
            await until(lambda dealer=dealer: dealer.socket.send(b"?") is Sent.OK)  # type: ignore[misc]
            await until(lambda count=number: len(router.received) == count + 1)  # type: ignore[misc]
            assert router.socket.send(b"d%d" % number, b"!") is Sent.OK
            await until(lambda dealer=dealer: dealer.received == [b"!"])  # type: ignore[misc]
            dealer.socket.close()
        router.socket.close()

    run(conversation())


def test_a_message_that_arrives_while_one_is_sent_is_read(endpoint: str) -> None:
    """Sending looks at the socket's commands and so takes the edge of what has just come in."""

    async def conversation() -> None:
        router = Router(endpoint)
        router.socket.start()
        with raw(endpoint) as peer:
            peer.send(b"hello")
            await until(lambda: len(router.received) == 1)
            for number in range(300):
                peer.send(b"x")
                time.sleep(0.0005)  # noqa: ASYNC251  # it arrives while this loop is busy
                assert router.socket.send(b"raw", b"y") is Sent.OK
                await until(lambda count=number: len(router.received) == count + 2, timeout_s=2.0)  # type: ignore[misc]
        router.socket.close()

    run(conversation())


@pytest.mark.parametrize("count", [DRAIN_MESSAGES - 1, DRAIN_MESSAGES, DRAIN_MESSAGES + 1, 5 * DRAIN_MESSAGES + 7])
def test_a_burst_longer_than_one_drain_is_read_to_its_end(endpoint: str, count: int) -> None:
    async def conversation() -> None:
        router = Router(endpoint)
        drains: list[int] = []
        router.socket.on_drained = lambda: drains.append(len(router.received))
        with raw(endpoint) as peer:
            for _ in range(count):
                peer.send(b"x")
            await until(lambda: bool(int(router.socket._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN))
            router.socket.start()
            await until(lambda: len(router.received) == count)
        assert max(after - before for before, after in zip([0, *drains], drains, strict=False)) <= DRAIN_MESSAGES
        router.socket.close()

    run(conversation())


def test_timers_and_other_sockets_get_their_turn_during_a_flood(endpoint: str) -> None:
    """Two sockets that answer one another for ever, with more in flight than one drain takes."""

    async def conversation() -> None:
        router, dealer = Router(endpoint), Dealer(endpoint)
        flooding = True
        handled, since_turn, most, ticks = 0, 0, 0, 0

        def count() -> None:
            nonlocal handled, since_turn
            handled += 1
            since_turn += 1

        def on_request(identity: bytes, blob: bytes) -> None:
            count()
            if flooding:
                router.socket.send(identity, blob)

        def on_answer(blob: bytes) -> None:
            count()
            if flooding:
                dealer.socket.send(blob)

        def turn() -> None:
            nonlocal since_turn, most
            most, since_turn = max(most, since_turn), 0
            if flooding:
                loop.call_soon(turn)

        def tick() -> None:
            nonlocal ticks
            ticks += 1
            if flooding:
                loop.call_later(0.005, tick)

        router.socket._on_message, dealer.socket._on_message = on_request, on_answer
        loop = asyncio.get_running_loop()
        router.socket.start()
        dealer.socket.start()
        await until(lambda: dealer.socket.send(b"x") is Sent.OK)
        for _ in range(4 * DRAIN_MESSAGES):
            assert dealer.socket.send(b"x" * 640) is Sent.OK
        turn()
        tick()
        began = time.monotonic()
        await asyncio.sleep(0.5)
        took = time.monotonic() - began
        flooding = False
        assert handled > 20 * DRAIN_MESSAGES
        assert most <= 4 * DRAIN_MESSAGES  # two sockets, each before and after this function's own turn
        assert took < 1.0
        assert ticks >= 20
        router.socket.close()
        dealer.socket.close()

    run(conversation())


def test_a_handler_that_fails_is_logged_and_the_next_message_is_read(
    endpoint: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def conversation() -> None:
        router = Router(endpoint)

        def handler(identity: bytes, blob: bytes) -> None:
            if blob == b"bad":
                raise ValueError("cannot be")
            router.on_message(identity, blob)

        router.socket._on_message = handler
        router.socket.start()
        with raw(endpoint) as peer:
            peer.send(b"bad")
            peer.send(b"good")
            await until(lambda: router.blobs == [b"good"])
        router.socket.close()

    run(conversation())
    assert "a handler failed on a message of 3 bytes from b'raw'" in caplog.text
    assert "ValueError: cannot be" in caplog.text


def test_work_on_a_batch_that_fails_does_not_lose_the_rest_of_a_burst(endpoint: str) -> None:
    async def conversation() -> None:
        router = Router(endpoint)
        failures: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context["exception"]))

        def fail() -> None:
            raise ValueError("cannot be")

        router.socket.on_drained = fail
        with raw(endpoint) as peer:
            for _ in range(5 * DRAIN_MESSAGES):
                peer.send(b"x")
            router.socket.start()
            await until(lambda: len(router.received) == 5 * DRAIN_MESSAGES)
        assert failures
        assert all(isinstance(failure, ValueError) for failure in failures)
        router.socket.close()

    run(conversation())


def test_a_handler_may_close_its_socket(endpoint: str) -> None:
    async def conversation() -> None:
        router, dealer = Router(endpoint), Dealer(endpoint)

        def close_router(identity: bytes, blob: bytes) -> None:
            router.on_message(identity, blob)
            router.socket.close(500)
            router.socket.close()

        def close_dealer(blob: bytes) -> None:
            dealer.on_message(blob)
            dealer.socket.close()

        dealer.socket._on_message = close_dealer
        router.socket.start()
        dealer.socket.start()
        await until(lambda: dealer.socket.send(b"x") is Sent.OK)
        await until(lambda: len(router.received) == 1)
        for _ in range(3):
            router.socket.send(b"d", b"y")
        await until(lambda: dealer.socket.closed)
        router.socket._on_message = close_router
        with raw(endpoint) as peer:
            for _ in range(3):
                peer.send(b"z")
            await until(lambda: router.socket.closed)
        assert (router.blobs, dealer.received) == ([b"x", b"z"], [b"y"])

    run(conversation())


def test_a_peer_that_was_never_there_is_gone(endpoint: str) -> None:
    async def conversation() -> None:
        router = Router(endpoint)
        router.socket.start()
        assert router.socket.send(b"nobody", b"x") is Sent.GONE
        with raw(endpoint) as peer:
            peer.send(b"x")
            await until(lambda: len(router.received) == 1)
            assert router.socket.send(b"raw", b"y") is Sent.OK  # the socket is as good as before
            assert await asyncio.to_thread(peer.recv) == b"y"
        await until(lambda: router.socket.send(b"raw", b"z") is Sent.GONE)
        router.socket.close()

    run(conversation())


def test_a_dealer_without_a_peer_is_gone_and_queues_nothing(endpoint: str) -> None:
    async def conversation() -> None:
        dealer = Dealer(endpoint)
        dealer.socket.start()
        for _ in range(100):
            assert dealer.socket.send(b"stale") is Sent.GONE
        router = Router(endpoint)
        router.socket.start()
        await until(lambda: dealer.socket.send(b"fresh") is Sent.OK)
        await until(lambda: bool(router.received))
        assert router.blobs == [b"fresh"]
        dealer.socket.close()
        router.socket.close()

    run(conversation())


def test_a_peer_that_does_not_read_is_full_and_others_are_not(endpoint: str) -> None:
    async def conversation() -> None:
        router = Router(endpoint)
        router.socket.start()
        with raw(endpoint, b"slow") as slow, raw(endpoint, b"quick") as quick:
            slow.send(b"x")
            quick.send(b"x")
            await until(lambda: len(router.received) == 2)
            sent, began = 0, time.monotonic()
            while router.socket.send(b"slow", bytes(10_000)) is Sent.OK:
                sent += 1
                assert sent < 10_000
            assert time.monotonic() - began < 5  # it never waited
            assert sent >= SEND_HIGH_WATER_MARK
            assert router.socket.send(b"quick", b"y") is Sent.OK
            assert await asyncio.to_thread(quick.recv) == b"y"
            for _ in range(10):
                await asyncio.to_thread(slow.recv)  # what was accepted comes whole and in order
        router.socket.close()

    run(conversation())


@pytest.mark.parametrize("frames", [0, 2, 3, 50])
def test_a_message_of_other_than_one_frame_is_refused_whole(endpoint: str, frames: int) -> None:
    async def conversation() -> None:
        router = Router(endpoint)
        router.socket.start()
        with raw(endpoint) as peer:
            peer.send_multipart([b"part"] * frames if frames else [b""])
            peer.send(b"whole")
            await until(lambda: router.blobs[-1:] == [b"whole"])
        assert router.bad == ([(b"raw", frames)] if frames else [])
        assert router.blobs == ([b"whole"] if frames else [b"", b"whole"])  # an empty frame is for the codec to refuse
        router.socket.close()

    run(conversation())


def test_a_dealer_drops_a_message_of_more_than_one_frame(endpoint: str, caplog: pytest.LogCaptureFixture) -> None:
    async def conversation() -> None:
        bare = shared_context().socket(zmq.ROUTER)
        bare.bind(endpoint)
        dealer = Dealer(endpoint)
        dealer.socket.start()
        await until(lambda: dealer.socket.send(b"x") is Sent.OK)
        identity, _ = await asyncio.to_thread(bare.recv_multipart)
        bare.send_multipart([identity, b"a", b"b"])
        bare.send_multipart([identity, b"whole"])
        await until(lambda: dealer.received == [b"whole"])
        dealer.socket.close()
        bare.close(0)

    run(conversation())
    assert "dropped a message of more than one frame" in caplog.text


def test_a_peer_that_sends_too_much_at_once_is_cut_off_and_others_are_not(endpoint: str) -> None:
    async def conversation() -> None:
        router = Router(endpoint)
        router.socket.start()
        with raw(endpoint, b"rude") as rude, raw(endpoint, b"polite") as polite:
            polite.send(b"1")
            rude.send(bytes(LIMIT + 1))
            rude.send(bytes(LIMIT))  # after the reconnection
            polite.send(b"2")
            await until(lambda: len(router.received) == 3)
        assert sorted(len(blob) for blob in router.blobs) == [1, 1, LIMIT]
        router.socket.close()

    run(conversation())


def test_an_identity_that_is_in_use_takes_nobodys_messages(endpoint: str) -> None:
    async def conversation() -> None:
        router = Router(endpoint)
        router.socket.start()
        with raw(endpoint, b"same") as first:
            first.send(b"first")
            await until(lambda: router.blobs == [b"first"])
            with raw(endpoint, b"same") as thief:
                thief.send(b"thief")
                for number in range(20):
                    assert router.socket.send(b"same", b"%d" % number) is Sent.OK
                    assert await asyncio.to_thread(first.recv) == b"%d" % number
                assert not thief.poll(0)
        assert router.blobs == [b"first"]
        router.socket.close()

    run(conversation())


def test_any_tcp_port_is_told_and_answers(endpoint: str) -> None:
    async def conversation() -> None:
        router = Router("tcp://127.0.0.1:*")
        router.socket.start()
        assert not router.bound.endswith(("*", ":0"))
        dealer = Dealer(router.bound)
        dealer.socket.start()
        await until(lambda: dealer.socket.send(b"x") is Sent.OK)
        await until(lambda: router.blobs == [b"x"])
        dealer.socket.close_politely()
        router.socket.close()

    run(conversation())


def test_a_polite_goodbye_arrives(endpoint: str) -> None:
    async def conversation() -> None:
        router = Router(endpoint)
        router.socket.start()
        for number in range(5):
            dealer = Dealer(endpoint, b"%d" % number)
            dealer.socket.start()
            await until(lambda dealer=dealer: dealer.socket.send(b"x") is Sent.OK)  # type: ignore[misc]
            for _ in range(50):
                dealer.socket.send(b"last words")
            dealer.socket.close_politely()
        await until(lambda: len(router.received) == 5 * 51)
        router.socket.close()

    run(conversation())


def test_a_context_ends_at_once_when_its_sockets_are_closed(endpoint: str) -> None:
    async def conversation() -> None:
        context = new_context()
        socket = RouterSocket(context, lambda *_: None, drop_bytes=LIMIT, on_bad_frames=lambda *_: None)
        socket.bind(endpoint)
        socket.start()
        socket.close()
        await asyncio.wait_for(asyncio.to_thread(context.term), 2)
        assert shared_context() is shared_context()

    run(conversation())
