"""The ingest client against an orchestrator by script, over a real socket."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

import protocol.line
from protocol.audio import AudioFormat
from protocol.client import Client, Event, Reconnected
from protocol.dial import dial
from protocol.errors import (
    ConnectionLost,
    EndpointError,
    Malformed,
    RemoteError,
    SessionEnded,
    TooLarge,
    VersionMismatch,
)
from protocol.ingest import Audio, Close, Closed, Credit, Error, Interrupt, Open, Opened, Ping, Played, State, Text
from protocol.limits import MAX_TEXT_LENGTH
from tests.protocol.loop import open_sockets, run, until
from tests.protocol.peer import Peer

FRAME = bytes(640)


@pytest.fixture
def endpoint(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/a.ingest"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pings and gives up ten times as soon."""
    monkeypatch.setattr(protocol.line, "CLIENT_PING_MS", 100)
    monkeypatch.setattr(protocol.line, "CLIENT_LOST_MS", 300)


async def next_of(client: Client, kind: type[Any]) -> Any:
    """The next event of this kind; others are dropped."""
    async for event in client:
        if isinstance(event, kind):
            return event
    raise AssertionError(f"the session ended before a {kind.__name__}")


def test_connecting_opens_a_session_with_what_was_asked_for(endpoint: str) -> None:
    async def conversation() -> None:
        with Peer(endpoint) as peer:
            options: dict[str, Any] = {"user": "ann", "metadata": {"room": "7"}, "reports_played": True}
            async with await Client.connect(endpoint, input=AudioFormat(8_000), **options) as client:
                (opening,) = peer.of(Open)
                assert (opening.session, opening.sequence) == (client.session, 0)
                assert (opening.user, opening.metadata, opening.reports_played) == ("ann", {"room": "7"}, True)
                assert (opening.input.sample_rate, opening.output.sample_rate) == (8_000, 16_000)
                assert (client.opened.epoch, client.generation, client.sent_ms) == (peer.epoch, 0, 0.0)

    run(conversation())


def test_events_come_in_order_from_opened_to_closed(endpoint: str) -> None:
    async def conversation() -> None:
        with Peer(endpoint) as peer:
            peer.early = [State("", 0, 0, "listening", "silent"), Credit("", 0, 0, 5_000)]
            async with await Client.connect(endpoint) as client:
                peer.send(client.session, Audio("", 1, 0, FRAME), Closed("", 1, 0, "enough"))
                events: list[Event] = [event async for event in client]
                assert [type(event) for event in events] == [Opened, State, Audio, Closed]
                with pytest.raises(SessionEnded, match="has ended: enough"):
                    await client.send_audio(FRAME)
                with pytest.raises(SessionEnded):
                    client.interrupt()
            assert not peer.of(Close)

    run(conversation())


def test_audio_is_cut_into_frames_and_numbered(endpoint: str) -> None:
    async def conversation() -> None:
        with Peer(endpoint) as peer:
            async with await Client.connect(endpoint) as client:
                pcm = bytes(range(256)) * 6
                await client.send_audio(pcm)
                await until(lambda: len(peer.of(Audio)) == 3)
                frames = peer.of(Audio)
                assert [len(frame.pcm) for frame in frames] == [640, 640, 256]
                assert b"".join(frame.pcm for frame in frames) == pcm
                assert client.sent_ms == 48.0
                assert [message.sequence for message in peer.received] == list(range(len(peer.received)))
                with pytest.raises(Malformed, match="audio of 3 bytes"):
                    await client.send_audio(b"abc")

    run(conversation())


def test_audio_waits_for_credit_and_no_frame_goes_beyond_it(endpoint: str) -> None:
    async def conversation() -> None:
        with Peer(endpoint, credit_ms=50) as peer:
            async with await Client.connect(endpoint) as client:
                sending = asyncio.create_task(client.send_audio(FRAME * 5))
                await until(lambda: len(peer.of(Audio)) == 2)
                assert not sending.done()
                peer.send(client.session, Credit("", 0, 0, 80), Credit("", 0, 0, 60))
                await until(lambda: len(peer.of(Audio)) == 4)
                assert not sending.done()
                peer.send(client.session, Credit("", 0, 0, 1_000))
                await sending
                assert client.sent_ms == 100.0

    run(conversation())


def test_a_cancelled_send_has_sent_whole_frames(endpoint: str) -> None:
    async def conversation() -> None:
        with Peer(endpoint, credit_ms=50) as peer:
            async with await Client.connect(endpoint) as client:
                sending = asyncio.create_task(client.send_audio(FRAME * 5))
                await until(lambda: len(peer.of(Audio)) == 2)
                sending.cancel()
                await asyncio.wait([sending])
                assert client.sent_ms == 40.0
                peer.send(client.session, Credit("", 0, 0, 1_000))
                await client.send_audio(FRAME)
                await until(lambda: len(peer.of(Audio)) == 3)

    run(conversation())


def test_a_send_that_waits_hears_of_the_end(endpoint: str) -> None:
    async def conversation() -> None:
        with Peer(endpoint, credit_ms=0) as peer:
            async with await Client.connect(endpoint) as client:
                sending = asyncio.create_task(client.send_audio(FRAME))
                peer.send(client.session, Closed("", 0, 0, "enough"))
                with pytest.raises(SessionEnded):
                    await sending

    run(conversation())


def test_audio_of_an_older_generation_is_dropped_even_when_it_waits_already(endpoint: str) -> None:
    async def conversation() -> None:
        with Peer(endpoint) as peer:
            async with await Client.connect(endpoint) as client:
                await next_of(client, Opened)
                peer.send(client.session, *(Audio("", 1, 0, FRAME) for _ in range(3)))
                peer.send(client.session, State("", 2, 0, "listening", "silent"), Audio("", 1, 0, FRAME))
                peer.send(client.session, Audio("", 2, 0, b"new!"))
                await until(lambda: client.generation == 2)
                assert isinstance(await anext(client), State)
                audio = await next_of(client, Audio)
                assert (audio.generation, audio.pcm) == (2, b"new!")

    run(conversation())


def test_text_interruption_and_played_are_sent(endpoint: str) -> None:
    async def conversation() -> None:
        with Peer(endpoint) as peer:
            async with await Client.connect(endpoint) as client:
                await client.send_text("hello")
                client.interrupt()
                client.report_played(3, 41.7)
                await until(lambda: bool(peer.of(Played)))
                assert peer.of(Text)[0].text == "hello"
                assert peer.of(Interrupt)
                assert (peer.of(Played)[0].generation, peer.of(Played)[0].played_ms) == (3, 41)
                with pytest.raises(TooLarge, match=f"8001 characters; at most {MAX_TEXT_LENGTH}"):
                    await client.send_text("x" * (MAX_TEXT_LENGTH + 1))
                with pytest.raises(Malformed, match="empty"):
                    await client.send_text("")

    run(conversation())


@pytest.mark.parametrize("category", ["retryable", "fatal", "configuration"])
def test_a_refusal_is_raised_as_it_was_sent(endpoint: str, category: Any) -> None:
    async def conversation() -> None:
        with Peer(endpoint, refusal=Error("", 0, 0, "sessions_full", category, "there are 3, no more")) as peer:
            with pytest.raises(RemoteError, match="there are 3, no more") as caught:
                await Client.connect(endpoint)
            assert (caught.value.code, caught.value.category) == ("sessions_full", category)
            assert len(peer.of(Open)) == 1

    run(conversation())


def test_another_major_version_is_an_error(endpoint: str) -> None:
    async def conversation() -> None:
        with Peer(endpoint) as peer:
            peer.version = (2, 0)
            with pytest.raises(VersionMismatch, match="speaks protocol version 2, this client 1"):
                await Client.connect(endpoint)

    run(conversation())


@pytest.mark.parametrize("there", [False, True])
def test_nobody_answering_names_the_address_and_what_to_do(endpoint: str, there: bool) -> None:
    async def conversation() -> None:
        peer = Peer(endpoint) if there else None
        if peer is not None:
            peer.mute = True
        began = time.monotonic()
        with pytest.raises(ConnectionLost, match=rf"{endpoint} within 0\.2 s.*antiphon up"):
            await Client.connect(endpoint, open_timeout_s=0.2)
        assert time.monotonic() - began < 2
        if peer is not None:
            peer.close()

    run(conversation())


def test_an_impossible_address_or_format_is_an_error_at_once() -> None:
    async def conversation() -> None:
        with pytest.raises(EndpointError):
            await Client.connect("http://there")
        with pytest.raises(Malformed, match=r"output\.sample_rate"):
            await Client.connect("ipc:///nowhere", output=AudioFormat(96_000))

    run(conversation())


def test_a_pattern_finds_the_one_that_answers_among_those_that_do_not(tmp_path: Path) -> None:
    async def conversation() -> None:
        for name in "bcd":  # socket files that crashed processes left behind
            (tmp_path / f"{name}.ingest").touch()
        with Peer(f"ipc://{tmp_path}/a.ingest"):
            async with await Client.connect(f"ipc://{tmp_path}/*.ingest") as client:
                assert client.opened.orchestrator == "scripted"

    run(conversation())


def test_a_host_name_is_resolved() -> None:
    async def conversation() -> None:
        with Peer("tcp://127.0.0.1:*") as peer:
            port = peer.bound.rpartition(":")[2]
            async with await Client.connect(["ipc:///nowhere/*.ingest", f"tcp://localhost:{port}"]) as client:
                assert client.opened.epoch == peer.epoch

    run(conversation())


def test_a_restarted_orchestrator_gets_a_new_session_and_the_audio_that_waits(endpoint: str) -> None:
    async def conversation() -> None:
        first = Peer(endpoint, credit_ms=40)
        async with await Client.connect(endpoint) as client:
            session = client.session
            first.send(session, Audio("", 5, 0, FRAME), State("", 5, 0, "speaking", "silent"))
            sending = asyncio.create_task(client.send_audio(FRAME * 4))
            await until(lambda: client.generation == 5 and len(first.of(Audio)) == 2)
            first.close()
            with Peer(endpoint) as second:
                await sending
                await until(lambda: len(second.of(Audio)) == 2)
                assert client.sent_ms == 40.0
                events = [await anext(client) for _ in range(4)]
                assert [type(event) for event in events] == [Opened, State, Reconnected, Opened]
                reconnected: Any = events[2]
                assert reconnected.session == client.session != session
                assert "does not know the session" in reconnected.reason
                assert (client.opened.epoch, client.generation) == (second.epoch, 0)
                assert second.of(Open)[0].sequence == 0
                await client.close()

    run(conversation())


def test_an_orchestrator_that_forgot_the_session_gets_a_new_one(endpoint: str) -> None:
    async def conversation() -> None:
        with Peer(endpoint) as peer:
            async with await Client.connect(endpoint) as client:
                identity = peer.sessions[client.session]
                peer.sessions.clear()
                await client.send_text("are you there?")
                await next_of(client, Reconnected)
                await next_of(client, Opened)
                assert list(peer.sessions) == [client.session]
                assert peer.sessions[client.session] != identity

    run(conversation())


def test_opened_with_another_epoch_is_a_new_orchestrator(endpoint: str) -> None:
    async def conversation() -> None:
        with Peer(endpoint) as peer:
            async with await Client.connect(endpoint) as client:
                peer.send(client.session, Opened("", 0, 0, (1, 0), "other", "scripted", 0))
                assert "started anew" in (await next_of(client, Reconnected)).reason

    run(conversation())


@pytest.mark.usefixtures("impatient")
def test_a_hung_orchestrator_is_left_for_another_one(tmp_path: Path) -> None:
    async def conversation() -> None:
        peers = {f"ipc://{tmp_path}/{name}.ingest": Peer(f"ipc://{tmp_path}/{name}.ingest") for name in "ab"}
        async with await Client.connect(list(peers)) as client:
            hung, other = sorted(peers.values(), key=lambda peer: peer.epoch != client.opened.epoch)
            hung.mute = True
            assert "silent for 0.3 s" in (await next_of(client, Reconnected)).reason
            assert client.opened.epoch == other.epoch
            await until(lambda: bool(hung.of(Close)))  # so that it ends the old session should it wake up
        for peer in peers.values():
            peer.close()

    run(conversation())


@pytest.mark.usefixtures("impatient")
def test_an_orchestrator_that_answers_pings_is_kept(endpoint: str) -> None:
    async def conversation() -> None:
        with Peer(endpoint) as peer:
            async with await Client.connect(endpoint) as client:
                session = client.session
                await until(lambda: len(peer.of(Ping)) > 8)
                assert client.session == session

    run(conversation())


@pytest.mark.usefixtures("impatient")
def test_a_loop_that_was_blocked_does_not_blame_the_orchestrator(endpoint: str) -> None:
    async def conversation() -> None:
        with Peer(endpoint) as peer:
            async with await Client.connect(endpoint) as client:
                await until(lambda: len(peer.of(Ping)) > 1)
                session = client.session
                time.sleep(0.6)  # noqa: ASYNC251  # the blocked loop is what is tested
                pings = len(peer.of(Ping))
                await until(lambda: len(peer.of(Ping)) > pings + 4)
                assert client.session == session

    run(conversation())


@pytest.mark.usefixtures("impatient")
def test_when_nobody_comes_back_the_loss_is_raised_everywhere(endpoint: str) -> None:
    async def conversation() -> None:
        peer = Peer(endpoint, credit_ms=0)
        async with await Client.connect(endpoint, reconnect_timeout_s=0.3) as client:
            sending = asyncio.create_task(client.send_audio(FRAME))
            await next_of(client, Opened)
            peer.close()
            for _ in range(2):
                with pytest.raises(ConnectionLost, match=r"silent for 0\.3 s; no orchestrator"):
                    await anext(client)
            with pytest.raises(ConnectionLost):
                await sending

    run(conversation())


@pytest.mark.usefixtures("impatient")
def test_while_reconnecting_a_refusal_that_may_pass_is_waited_out_and_another_is_raised(endpoint: str) -> None:
    async def conversation() -> None:
        with Peer(endpoint) as peer:
            async with await Client.connect(endpoint) as client:
                peer.refusal = Error("", 0, 0, "draining", "retryable", "try again")
                peer.sessions.clear()
                await until(lambda: len(peer.of(Open)) >= 3)
                peer.refusal = None
                await next_of(client, Reconnected)
                peer.refusal = Error("", 0, 0, "bad_option", "configuration", "no such voice")
                peer.sessions.clear()
                with pytest.raises(RemoteError, match="no such voice"):
                    await next_of(client, Reconnected)

    run(conversation())


def test_a_broken_connection_alone_does_not_lose_control_messages(endpoint: str) -> None:
    async def conversation() -> None:
        first = Peer(endpoint)
        async with await Client.connect(endpoint) as client:
            first.close()
            line = client._line
            assert line is not None
            await until(lambda: not line.send(Ping("", 0, 0)))  # ZeroMQ has noticed
            client.interrupt()
            client.report_played(0, 20)
            with Peer(endpoint) as second:
                second.sessions = dict(first.sessions)  # the same orchestrator; only the connection broke
                await until(lambda: bool(second.of(Played)))
                assert [type(message) for message in second.received if not isinstance(message, Ping)] == [
                    Interrupt,
                    Played,
                ]
                await client.close()

    run(conversation())


def test_unknown_kinds_and_fields_are_counted_and_ignored(endpoint: str) -> None:
    async def conversation() -> None:
        with Peer(endpoint) as peer:
            async with await Client.connect(endpoint) as client:
                encode = msgspec.msgpack.encode
                peer.send_raw(client.session, encode(["mood", client.session, 0, 9, "good"]))
                peer.send_raw(client.session, encode(["state", "another session", 0, 9, "listening", "silent"]))
                peer.send_raw(client.session, encode(["state", client.session, 0, 1, "listening", "silent", "new"]))
                assert (await next_of(client, State)).agent == "listening"
                assert client.ignored == 2

    run(conversation())


def test_what_cannot_be_read_is_logged_and_what_is_missing_is_counted(
    endpoint: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def conversation() -> None:
        with Peer(endpoint) as peer:
            async with await Client.connect(endpoint) as client:
                peer.send_raw(
                    client.session, msgspec.msgpack.encode(["state", client.session, 0, 1, "dancing", "silent"])
                )
                peer.send_raw(
                    client.session, msgspec.msgpack.encode(["state", client.session, 0, 4, "speaking", "silent"])
                )
                await next_of(client, State)
                assert (client.ignored, client.gaps) == (1, 3)

    run(conversation())
    assert "dropped: state: field agent: Invalid enum value 'dancing'" in caplog.text


def test_closing_is_polite_and_safe_to_repeat(endpoint: str) -> None:
    async def conversation() -> None:
        with Peer(endpoint) as peer:
            client = await Client.connect(endpoint)
            await asyncio.gather(client.close("bye"), client.close("bye again"))
            await client.close()
            assert peer.of(Close)[0].reason == "bye"
            assert [type(event) async for event in client] == [Opened, Closed]
            with pytest.raises(SessionEnded):
                await client.send_text("more")

    run(conversation())


def test_closing_does_not_wait_long_for_an_orchestrator_that_does_not_answer(endpoint: str) -> None:
    async def conversation() -> None:
        with Peer(endpoint) as peer:
            client = await Client.connect(endpoint)
            peer.mute = True
            began = time.monotonic()
            await client.close()
            assert 0.5 < time.monotonic() - began < 2.5
            assert [type(event) async for event in client] == [Opened]

    run(conversation())


def test_a_cancelled_close_has_closed(endpoint: str) -> None:
    async def conversation() -> None:
        with Peer(endpoint) as peer:
            client = await Client.connect(endpoint)
            peer.mute = True
            closing = asyncio.create_task(client.close())
            await until(lambda: bool(peer.of(Close)))
            closing.cancel()
            await asyncio.wait([closing])
            assert open_sockets() == 1  # the peer's
            await until(lambda: len(asyncio.all_tasks()) == 1)

    run(conversation())


@pytest.mark.usefixtures("impatient")
def test_closing_while_reconnecting_ends_the_search(endpoint: str) -> None:
    async def conversation() -> None:
        with Peer(endpoint) as peer:
            client = await Client.connect(endpoint)
            peer.mute = True
            await until(lambda: len(peer.of(Open)) == 2)
            await client.close()

    run(conversation())


@pytest.mark.parametrize("there", [False, True])
def test_a_cancelled_connect_leaves_nothing_and_takes_leave(endpoint: str, there: bool) -> None:
    async def conversation() -> None:
        peer = Peer(endpoint) if there else None
        if peer is not None:
            peer.mute = True
        connecting = asyncio.create_task(Client.connect(endpoint))
        await until(lambda: bool(peer.of(Open)) if peer is not None else open_sockets() > 0)
        connecting.cancel()
        await asyncio.wait([connecting])
        assert connecting.cancelled()
        assert open_sockets() == (1 if there else 0)
        if peer is not None:
            await until(lambda: bool(peer.of(Close)))  # it may have opened the session meanwhile
            peer.close()

    run(conversation())


def test_dialling_tries_the_one_that_was_lost_last(tmp_path: Path) -> None:
    async def conversation() -> None:
        endpoints = [f"ipc://{tmp_path}/{name}.ingest" for name in "ab"]
        with Peer(endpoints[0]), Peer(endpoints[1]):
            for _ in range(5):
                line = await dial(endpoints, Open("", 0, 0), 5.0, retry_refusals=False, last=endpoints[0])
                assert line.endpoint == endpoints[1]
                line.close()

    run(conversation())
