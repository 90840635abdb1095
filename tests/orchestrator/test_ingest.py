"""The ingest: what is refused and how, and that nobody else notices."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from typing import Any

import msgpack
import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.agent import VoiceAgent
from orchestrator.factory import AgentFactory, SessionInfo
from orchestrator.hub import Addresses, Hub
from orchestrator.ingest import EARLY_MESSAGES
from protocol.errors import EndpointError, RemoteError
from protocol.ids import new_session_id
from protocol.ingest import FROM_CLIENT, Audio, Close, Interrupt, Metrics, Open, Ping, Played, Text
from protocol.limits import MAX_BAD_MESSAGES, MAX_INGEST_BYTES, MAX_METADATA_ITEMS
from protocol.node import FROM_NODE, AudioOut, Goodbye, Heartbeat, Register, Speech, StreamDone, TranscriptOut
from tests.orchestrator.world import STT, RawClient, World, event, until

FORMAT = [16_000, 1, "pcm_s16le"]


async def refusal(raw: RawClient) -> tuple[str, str]:
    """Code and sentence of the next error that this peer is sent."""
    message = await raw.receive("error")
    return message[4], message[6]


@pytest.mark.parametrize(
    ("fields", "code", "sentence"),
    [
        (("open", [2, 0], FORMAT, FORMAT), "version", "the client speaks protocol version 2.0, this orchestrator 1.0"),
        (
            ("open", [1, 0], [4_000, 1, "pcm_s16le"]),
            "malformed",
            r"open\.input\.sample_rate is 4000 Hz; allowed are 8000",
        ),
        (("open", [1, 0], [16_000, 2, "pcm_s16le"]), "malformed", r"open\.input\.channels is 2; only 1"),
        (("open", [1, 0], [16_000, 1, "opus"]), "malformed", r"open\.input\.encoding is 'opus'"),
        (("open", [1, 0], FORMAT, [96_000, 1, "pcm_s16le"]), "malformed", r"open\.output\.sample_rate is 96000"),
        (("open", "1.0"), "malformed", "open: field version"),
        (("audio", b"\0\0"), "unknown_session", "is not open here: start one with `open`"),
        (("sing", 1), "unknown_kind", "no message here is of kind 'sing'; known are audio, close"),
        (("open", [1, 0], FORMAT, FORMAT, False, "x" * 65), "malformed", "field user"),
        (
            ("open", [1, 0], FORMAT, FORMAT, False, "", {str(n): "" for n in range(33)}),
            "malformed",
            "has 33 items; at most",
        ),
    ],
)
def test_what_cannot_be_accepted_is_answered_by_name(fields: tuple[Any, ...], code: str, sentence: str) -> None:
    assert MAX_METADATA_ITEMS == 32

    async def conversation() -> None:
        async with World() as world, world.raw() as raw:
            raw.send(*fields)
            told = await raw.receive("error")
            assert told[1] == raw.session
            assert told[4] == code
            assert re.search(sentence, told[6]), told[6]
            assert not world.hub.ingest.sessions

    uvloop.run(conversation())


def test_garbage_of_many_kinds_is_answered_and_another_session_goes_on() -> None:
    async def conversation() -> None:
        async with World() as world, await world.connect() as client, world.raw() as raw:
            for blob in (b"", b"\x00", b"GET / HTTP/1.1\r\n\r\n", b"\xc1", b"\x93" * 50_000, msgpack.packb({"a": 1})):
                raw.socket.send(blob)
                assert (await refusal(raw))[0] == "malformed"
            raw.socket.send(bytes(MAX_INGEST_BYTES + 1))
            code, sentence = await refusal(raw)
            assert code == "too_large"
            assert "65537" in sentence
            assert "65536" in sentence
            raw.socket.send_multipart([b"a", b"b", b"c"])
            assert "exactly one frame; this one had 3" in (await refusal(raw))[1]
            await client.send_text("hello")
            assert (await event(client, lambda found: isinstance(found, Metrics))).outcome == "completed"

    uvloop.run(conversation())


def test_audio_that_cannot_be_is_refused_by_name_and_the_session_goes_on() -> None:
    async def conversation() -> None:
        async with World() as world, world.raw() as raw:
            raw.open()
            await raw.receive("opened")
            raw.send("audio", b"\0")
            assert "16-bit samples need an even number" in (await refusal(raw))[1]
            raw.send("audio", bytes(6_402))
            code, sentence = await refusal(raw)
            assert code == "too_large"
            assert "a frame may hold 200 ms, 6400 bytes" in sentence
            raw.send("audio", "text")
            assert "audio: field pcm" in (await refusal(raw))[1]
            raw.send("text", "hello")
            assert (await raw.receive("metrics"))[5] == "completed"

    uvloop.run(conversation())


def test_a_session_belongs_to_the_connection_that_opened_it() -> None:
    async def conversation() -> None:
        async with World() as world, world.raw() as owner, world.raw() as thief:
            owner.open()
            await owner.receive("opened")
            thief.session = owner.session
            thief.send("close")
            assert (await refusal(thief))[0] == "unknown_session"
            thief.open()
            assert (await refusal(thief))[0] == "duplicate_session"
            owner.send("text", "hello")
            assert (await owner.receive("metrics"))[5] == "completed"

    uvloop.run(conversation())


def test_a_peer_that_sends_only_rubbish_is_no_longer_answered() -> None:
    async def conversation() -> None:
        async with World() as world, world.raw() as raw, world.raw() as other:
            for _ in range(MAX_BAD_MESSAGES + 20):
                raw.socket.send(b"rubbish")
            await until(lambda: world.hub.ingest.counters["bad_messages"] == MAX_BAD_MESSAGES)
            for _ in range(MAX_BAD_MESSAGES):
                await raw.receive("error")
            raw.open()
            other.open()
            await other.receive("opened")
            assert len(world.hub.ingest.sessions) == 1
            assert raw.socket.poll(0) == 0

    uvloop.run(conversation())


def test_kinds_of_a_newer_minor_version_are_ignored_and_its_fields_too() -> None:
    async def conversation() -> None:
        async with World() as world, world.raw() as raw:
            raw.send("open", [1, 7], FORMAT, FORMAT, False, "", {}, "a field of 1.7")
            await raw.receive("opened")
            raw.send("hologram", b"...")
            raw.send("text", "hello", "another field")
            assert (await raw.receive("metrics"))[5] == "completed"
            assert world.hub.ingest.counters["ignored_messages"] == 1
            assert world.hub.ingest.counters["bad_messages"] == 0

    uvloop.run(conversation())


def test_a_client_that_does_not_wait_for_opened_is_served_and_one_that_floods_is_told() -> None:
    async def conversation() -> None:
        gate = asyncio.Event()

        async def factory(session: SessionInfo) -> VoiceAgent:
            await gate.wait()
            return VoiceAgent(instructions="You are Ann.", stt=STT())

        async with World(factory) as world, world.raw() as raw:
            raw.open()
            raw.send("text", "hello")
            for _ in range(EARLY_MESSAGES):
                raw.send("audio", b"\0\0")
            code, sentence = await refusal(raw)
            assert code == "too_large"
            assert "wait for `opened`" in sentence
            gate.set()
            await raw.receive("opened")
            assert (await raw.receive("metrics"))[5] == "completed"

    uvloop.run(conversation())


def failing(how: str) -> AgentFactory:
    async def factory(session: SessionInfo) -> VoiceAgent:
        if how == "raises":
            raise RuntimeError("no database")
        return None  # type: ignore[return-value]

    return factory


def test_a_factory_that_fails_is_told_to_its_client_alone() -> None:
    async def conversation() -> None:
        async with World(failing("raises")) as world:
            with pytest.raises(RemoteError, match="no database"):
                await world.connect()
            await world.until_quiet()

    uvloop.run(conversation())


def test_more_sessions_than_allowed_are_refused_at_once() -> None:
    async def conversation() -> None:
        async with World(max_sessions=1) as world, await world.connect():
            with pytest.raises(RemoteError, match="hub holds 1 sessions") as told:
                await world.connect()
            assert told.value.code == "sessions_full"

    uvloop.run(conversation())


def test_a_draining_orchestrator_takes_no_session_and_lets_the_running_one_end() -> None:
    async def conversation() -> None:
        async with World() as world, await world.connect() as client:
            draining = asyncio.create_task(world.hub.ingest.drain(10.0))
            await until(lambda: world.hub.ingest.draining)
            with pytest.raises(RemoteError, match="is shutting down"):
                await world.connect()
            await client.send_text("hello")
            await event(client, lambda found: isinstance(found, Metrics))
            assert not draining.done()
            await client.close()
            await draining

    uvloop.run(conversation())


def test_a_client_that_is_gone_without_a_word_gives_back_its_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.ingest.GONE_S", 0.2)

    async def conversation() -> None:
        async with World() as world:
            async with world.raw() as raw:
                raw.open()
                await raw.receive("opened")
                raw.send("text", "what can you do")
                await raw.receive("audio")
            await world.until_quiet()

    uvloop.run(conversation())


def test_a_hub_that_has_drained_leaves_no_socket_for_nodes_to_dial() -> None:
    async def conversation() -> None:
        async with World() as world:
            folder = Path(world.folder.name)

            def sockets() -> list[str]:
                return sorted(path.suffix for path in folder.glob("hub.*") if path.is_socket())

            assert sockets() == [".control", ".ingest", ".nodes"]
            world.hub.stop()
            await until(lambda: not sockets())

    uvloop.run(conversation())


def test_a_second_hub_of_the_same_name_is_refused_and_the_first_goes_on() -> None:
    async def conversation() -> None:
        async with World() as world:
            with pytest.raises(EndpointError, match=f"already bound by process {os.getpid()}"):
                Hub(
                    Addresses(world.address("ingest"), world.address("nodes"), world.address("control")),
                    factory=world.agent,
                    name="hub",
                    agent_name="",
                    max_sessions=1,
                )
            async with await world.connect() as client:
                await client.send_text("hello")
                assert (await event(client, lambda found: isinstance(found, Metrics))).outcome == "completed"

    uvloop.run(conversation())


# --- hostile input on both sockets -----------------------------------------------------------------------------------

SEEDS = [
    FROM_CLIENT.encode(Open("s" * 32, 0, 0, metadata={"a": "b"})),
    FROM_CLIENT.encode(Audio("s" * 32, 0, 1, bytes(640))),
    FROM_CLIENT.encode(Text("s" * 32, 0, 2, "hello")),
    FROM_CLIENT.encode(Interrupt("s" * 32, 0, 3)),
    FROM_CLIENT.encode(Played("s" * 32, 1, 4, 20)),
    FROM_CLIENT.encode(Ping("s" * 32, 0, 5)),
    FROM_CLIENT.encode(Close("s" * 32, 0, 6)),
]
NODE_SEEDS = [
    FROM_NODE.encode(Register(0, 0, 0, "vad", "silero", "evil", "e" * 16, 1, "host", 10, "ready", [16_000])),
    FROM_NODE.encode(Heartbeat(0, 0, 1, "ready", 3)),
    FROM_NODE.encode(Speech(1, 0, 0, "start", 10)),
    FROM_NODE.encode(TranscriptOut(2, 0, 0, 1, "evil", True)),
    FROM_NODE.encode(AudioOut(3, 0, 0, 0, bytes(640))),
    FROM_NODE.encode(StreamDone(4, 0, 0)),
    FROM_NODE.encode(Goodbye(0, 0, 2)),
]


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A real message with some bytes changed, put in, taken out, or cut off."""
    blob = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(blob) - 1)))
        match draw(st.sampled_from(["change", "insert", "remove", "cut"])):
            case "change" if blob:
                blob[at] = draw(st.integers(0, 255))
            case "insert":
                blob[at:at] = draw(st.binary(min_size=1, max_size=8))
            case "remove":
                del blob[at : at + draw(st.integers(1, 8))]
            case _:
                del blob[at:]
    return bytes(blob)


def test_mutated_messages_on_both_sockets_harm_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """Batches of mutations go to both sockets of a hub with a session, which must still answer after each batch."""

    async def conversation(batches: list[tuple[list[bytes], list[bytes]]]) -> None:
        async with World() as world, await world.connect() as client:
            evil_node = RawClient(world.address("nodes"))
            try:
                for to_ingest, to_nodes in batches:
                    async with world.raw() as raw:  # a new peer, or it would not be listened to any more
                        for blob in to_ingest:
                            raw.socket.send(blob)
                        for blob in to_nodes:
                            evil_node.socket.send(blob)
                        raw.session = new_session_id()
                        raw.send("ping")
                        await raw.receive("error")
                await client.send_text("hello")
                assert (await event(client, lambda found: isinstance(found, Metrics))).outcome == "completed"
            finally:
                evil_node.close()

    collected: list[tuple[list[bytes], list[bytes]]] = []

    @settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(mutated(SEEDS), max_size=40), st.lists(mutated(NODE_SEEDS), max_size=40))
    def collect(to_ingest: list[bytes], to_nodes: list[bytes]) -> None:
        collected.append((to_ingest, to_nodes))

    collect()
    uvloop.run(conversation(collected))
    assert "a handler failed" not in caplog.text
