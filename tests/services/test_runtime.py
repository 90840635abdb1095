"""Node processes as the orchestrator meets them: registering, slots, leases, credit, failing, leaving."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest

from orchestrator.nodes import Node, NodePool
from orchestrator.streams import NodeStream
from protocol.engine import EngineOptions
from protocol.errors import AntiphonError, NodeLost
from protocol.limits import LEASE_MS, NODE_AHEAD_MS, TTS_AHEAD_MS
from protocol.node import (
    TO_NODE,
    Allow,
    AudioIn,
    AudioOut,
    ChatItem,
    Chunk,
    Flush,
    FromNode,
    Generate,
    Speak,
    Speech,
    StreamDone,
    Taken,
    TranscriptOut,
    Welcome,
    Words,
)
from protocol.sockets import RouterSocket, new_context
from services.engine import TtsEngine
from services.vad.segmenter import SpeechOptions
from tests.engines.scripted_llm import LLM
from tests.engines.scripted_stt import STT
from tests.engines.scripted_tts import TTS
from tests.engines.scripted_vad import VAD
from tests.nodes import NodeProcess, find, node_pool, node_process, ready
from tests.support import run_async, wait_for

M = TypeVar("M")
RATE = 16_000
LOUD = b"\x00\x20" * (RATE // 50)  # 20 ms
QUIET = bytes(len(LOUD))
FRAME_MS = 20
Test = Callable[[NodePool, NodeProcess, Node], Awaitable[None]]


class Work:
    """A stream that a test has opened: what came of it, and how it ended."""

    def __init__(self) -> None:
        self.messages: list[FromNode] = []
        self.error: AntiphonError | None = None
        self.stream: NodeStream | None = None

    def on_stream_message(self, stream: NodeStream, message: FromNode) -> None:
        self.messages.append(message)

    def on_stream_failed(self, stream: NodeStream, error: AntiphonError) -> None:
        self.error = error

    def of(self, kind: type[M]) -> list[M]:
        """The messages of one kind."""
        return [message for message in self.messages if isinstance(message, kind)]

    async def first(self, kind: type[M], count: int = 1) -> M:
        """Wait for so many messages of a kind; the last of them."""
        await wait_for(lambda: self.error or len(self.of(kind)) >= count, what=f"{count} {kind.__name__} messages")
        assert self.error is None, self.error
        return self.of(kind)[count - 1]

    async def failure(self, timeout_s: float = 5.0) -> AntiphonError:
        """Wait until the stream has failed."""
        await wait_for(lambda: self.error, timeout_s, "a stream's failure")
        assert self.error is not None
        return self.error


def open_work(pool: NodePool, options: EngineOptions, *, probe: bool = False) -> Work:
    """Open a stream; does not wait for the node's answer."""
    work = Work()
    rate = RATE if options.service in ("vad", "stt") else 0
    work.stream = pool.open(options.spec(), work, session="session-1", generation=1, sample_rate=rate, probe=probe)
    return work


async def opened(pool: NodePool, options: EngineOptions) -> tuple[NodeStream, Work]:
    """Open a stream and wait until it is accepted."""
    work = open_work(pool, options)
    stream = work.stream
    assert stream is not None
    await wait_for(lambda: work.error or work.messages, what="the answer to an opening")
    assert work.error is None, work.error
    return stream, work


def with_node(folder: Path, service: str, test: Test, **settings: Any) -> None:
    """Run a test with one node process that is READY at a pool."""

    async def scenario() -> None:
        endpoint = f"ipc://{folder}/nodes"
        async with node_pool(endpoint) as pool:
            with node_process(folder, service, endpoint, **settings) as process:
                await test(pool, process, await ready(pool, process.name))

    run_async(scenario(), deadline_s=45)


def recorded(folder: Path) -> dict[str, str]:
    return {"SCRIPTED_RECORD": str(folder / "record")}


def record_of(folder: Path) -> list[str]:
    path = folder / "record"
    return path.read_text().split("\n")[:-1] if path.exists() else []


# --- registering ------------------------------------------------------------------------------------------------------


def test_a_node_is_loading_until_its_engine_has_loaded_and_then_serves(tmp_path: Path) -> None:
    async def scenario() -> None:
        endpoint = f"ipc://{tmp_path}/nodes"
        async with node_pool(endpoint) as pool:
            with node_process(tmp_path, "llm", endpoint, slots=3, environment={"SCRIPTED_LOAD_S": "1.0"}) as process:
                await wait_for(lambda: find(pool, "llm-1"), 15, "the registration")
                node = find(pool, "llm-1")
                assert node is not None
                assert node.state == "loading"
                with pytest.raises(AntiphonError, match="no node serves llm/scripted-llm"):
                    open_work(pool, LLM())
                assert await ready(pool, "llm-1") is node
                assert node.registration.pid == process.pid
                assert node.registration.slots == 3
                await opened(pool, LLM())

    run_async(scenario())


def test_heartbeats_go_on_while_the_node_works(tmp_path: Path) -> None:
    async def test(pool: NodePool, process: NodeProcess, node: Node) -> None:
        stream, work = await opened(pool, LLM(tokens=("a",) * 10, delay_s=0.1))
        stream.send(Generate(0, 0, 0, []))
        await wait_for(lambda: node.used == 1, 1, "the heartbeat that says so")
        oldest = 0
        while not work.of(StreamDone):
            oldest = max(oldest, node.age_ms)
            await asyncio.sleep(0.01)
        assert oldest < 500
        assert len(work.of(Chunk)) == 10
        await wait_for(lambda: node.used == 0, 1, "the heartbeat that says that the slot is free")

    with_node(tmp_path, "llm", test)


def test_a_new_start_of_the_orchestrator_is_registered_at_and_finds_all_slots_free(tmp_path: Path) -> None:
    async def scenario() -> None:
        endpoint = f"ipc://{tmp_path}/nodes"
        with node_process(tmp_path, "stt", endpoint, slots=1, environment=recorded(tmp_path)) as process:
            async with node_pool(endpoint) as pool:
                await ready(pool, process.name)
                await opened(pool, STT())
            async with node_pool(endpoint) as pool:
                await ready(pool, process.name, 3)
                await wait_for(lambda: record_of(tmp_path) == ["open", "close"], what="the end of the old stream")
                stream, work = await opened(pool, STT())
                stream.send(AudioIn(0, 0, 0, LOUD))
                stream.send(Flush(0, 0, 0, 1))
                assert (await work.first(TranscriptOut)).text == "heard 20 ms"

    run_async(scenario())


def test_a_node_serves_several_orchestrators_from_the_same_slots(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node_pool(f"ipc://{tmp_path}/a.nodes") as a, node_pool(f"ipc://{tmp_path}/b.nodes") as b:
            with node_process(tmp_path, "llm", f"ipc://{tmp_path}/*.nodes", slots=2) as process:
                await ready(a, process.name)
                node = await ready(b, process.name)
                await opened(a, LLM())
                await opened(b, LLM())
                await wait_for(lambda: node.used == 2, 1, "the heartbeat that counts both")
                with pytest.raises(AntiphonError, match="all 2 slots of llm/scripted-llm on 1 node"):
                    open_work(b, LLM())

    run_async(scenario())


def test_an_orchestrator_that_appears_later_is_found(tmp_path: Path) -> None:
    async def scenario() -> None:
        with node_process(tmp_path, "llm", f"ipc://{tmp_path}/*.nodes") as process:
            async with node_pool(f"ipc://{tmp_path}/a.nodes") as a:
                await ready(a, process.name)
                async with node_pool(f"ipc://{tmp_path}/b.nodes") as b:
                    await ready(b, process.name)

    run_async(scenario())


def test_a_name_is_refused_while_another_process_has_it_and_taken_once_that_is_gone(tmp_path: Path) -> None:
    async def scenario() -> None:
        endpoint = f"ipc://{tmp_path}/nodes"
        async with node_pool(endpoint) as pool:
            with node_process(tmp_path, "llm", endpoint, name="same") as first:
                await ready(pool, "same")
                (tmp_path / "second").mkdir()
                with node_process(tmp_path / "second", "llm", endpoint, name="same") as second:
                    await wait_for(lambda: "the name 'same' is in use by process" in second.log, 15, "the refusal")
                    assert str(first.pid) in second.log
                    assert [node.registration.pid for node in pool.nodes] == [first.pid]
                    first.kill()
                    await wait_for(lambda: [node.registration.pid for node in pool.nodes] == [second.pid])
                    assert second.log.count("refuses this node") == 1  # and not with every heartbeat

    run_async(scenario())


# --- versions ---------------------------------------------------------------------------------------------------------


def test_a_node_ends_with_78_at_an_orchestrator_of_another_version(tmp_path: Path) -> None:
    async def scenario() -> None:
        endpoint = f"ipc://{tmp_path}/nodes"
        context = new_context()

        def welcome(identity: bytes, _: bytes) -> None:
            socket.send(identity, TO_NODE.encode(Welcome(0, 0, 0, (9, 0), "orchestrator-1", "epoch")))

        socket = RouterSocket(context, welcome, drop_bytes=1 << 20, on_bad_frames=lambda *_: None)
        socket.bind(endpoint)
        socket.start()
        try:
            with node_process(tmp_path, "llm", endpoint) as process:
                await process.exits(78)
                assert "speaks protocol version 9, this node 1: install the same release on both" in process.log
        finally:
            socket.close()
            context.term()

    run_async(scenario())


# --- slots and options ------------------------------------------------------------------------------------------------


def test_the_stream_for_which_no_slot_is_left_is_refused_at_once(tmp_path: Path) -> None:
    async def test(pool: NodePool, process: NodeProcess, node: Node) -> None:
        kept = [(await opened(pool, LLM()))[0] for _ in range(2)]
        began = time.monotonic()
        with pytest.raises(AntiphonError) as refused:
            open_work(pool, LLM())
        assert refused.value.code == "overloaded"
        assert refused.value.category == "retryable"
        assert time.monotonic() - began < 0.1
        kept[0].close()
        await opened(pool, LLM())

    with_node(tmp_path, "llm", test, slots=2)


def test_the_node_itself_refuses_what_two_orchestrators_give_it_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with node_pool(f"ipc://{tmp_path}/a.nodes") as a, node_pool(f"ipc://{tmp_path}/b.nodes") as b:
            with node_process(tmp_path, "llm", f"ipc://{tmp_path}/*.nodes", slots=1) as process:
                await ready(a, process.name)
                await ready(b, process.name)
                both = [open_work(a, LLM()), open_work(b, LLM())]
                await wait_for(lambda: all(work.error or work.messages for work in both), what="both answers")
                errors = [work.error for work in both if work.error is not None]
                assert [(error.code, error.category) for error in errors] == [("overloaded", "retryable")]

    run_async(scenario())


def test_a_probe_checks_the_options_and_takes_no_slot(tmp_path: Path) -> None:
    async def test(pool: NodePool, process: NodeProcess, node: Node) -> None:
        probe = open_work(pool, TTS(), probe=True)
        await opened(pool, TTS())  # the only slot
        await wait_for(lambda: probe.messages, what="the probe's answer")
        assert probe.stream is not None
        assert probe.stream.sample_rate == RATE

    with_node(tmp_path, "tts", test, slots=1)


@pytest.mark.parametrize("probe", [True, False])
def test_a_wrong_option_is_named_and_the_node_lives_on(tmp_path: Path, probe: bool) -> None:
    async def test(pool: NodePool, process: NodeProcess, node: Node) -> None:
        error = await open_work(pool, LLM(voice="unknown"), probe=probe).failure()
        assert (error.code, error.category) == ("bad_option", "configuration")
        assert "option 'voice' is 'unknown'" in str(error)
        spec = LLM().spec()
        spec.options["tempo"] = 3
        strange = Work()
        pool.open(spec, strange, session="session-1", generation=1)
        assert "option 'tempo' is 3; there is no such option; allowed are" in str(await strange.failure())
        await opened(pool, LLM())

    with_node(tmp_path, "llm", test, slots=1)


def test_a_probe_that_is_dropped_stops_its_check(tmp_path: Path) -> None:
    async def test(pool: NodePool, process: NodeProcess, node: Node) -> None:
        probe = open_work(pool, LLM(check_delay_s=60), probe=True)
        assert probe.stream is not None
        probe.stream.close()
        process.drain()
        await process.exits(0, 3)

    with_node(tmp_path, "llm", test)


# --- services ---------------------------------------------------------------------------------------------------------


def test_all_streams_of_a_vad_node_are_heard_in_one_call(tmp_path: Path) -> None:
    async def test(pool: NodePool, process: NodeProcess, node: Node) -> None:
        streams = [await opened(pool, VAD()) for _ in range(12)]
        for _ in range(48):
            for stream, _work in streams:
                stream.send(AudioIn(0, 0, 0, LOUD))
            await asyncio.sleep(0)
        for _stream, work in streams:
            assert (await work.first(Speech)).event == "start"
        await wait_for(lambda: sum(sizes()) == 12 * 30, what="every window")  # 48 frames of 20 ms, 30 of 32 ms
        assert max(sizes()) == 12

    def sizes() -> list[int]:
        return [int(line.split()[1]) for line in record_of(tmp_path)]

    with_node(tmp_path, "vad", test, environment=recorded(tmp_path))


def test_a_vad_call_that_raises_fails_its_own_streams_and_no_others(tmp_path: Path) -> None:
    async def test(pool: NodePool, process: NodeProcess, node: Node) -> None:
        other, heard = await opened(pool, VAD())
        stream, work = await opened(pool, VAD(fail_at=2))
        for _ in range(4):
            stream.send(AudioIn(0, 0, 0, LOUD))
        error = await work.failure()
        assert (error.code, error.category) == ("engine", "fatal")
        assert "RuntimeError: the script says so" in str(error)
        for _ in range(8):
            other.send(AudioIn(0, 0, 0, LOUD))
        assert (await heard.first(Speech)).event == "start"
        await wait_for(lambda: node.used == 1, 1, "the heartbeat that says that the slot is free")

    with_node(tmp_path, "vad", test)


@pytest.mark.parametrize(("service", "options"), [("vad", VAD()), ("stt", STT())])
def test_credit_for_audio_is_renewed_as_it_is_taken(tmp_path: Path, service: str, options: SpeechOptions) -> None:
    async def test(pool: NodePool, process: NodeProcess, node: Node) -> None:
        stream, work = await opened(pool, options)
        assert (await work.first(Taken)).until_ms == NODE_AHEAD_MS
        for _ in range(2_000 // FRAME_MS):
            stream.send(AudioIn(0, 0, 0, QUIET))
        await wait_for(lambda: work.of(Taken)[-1].until_ms >= NODE_AHEAD_MS + 1_500, what="more credit")
        assert len(work.of(Taken)) <= 6

    with_node(tmp_path, service, test)


def test_tts_is_held_back_until_it_is_given_credit(tmp_path: Path) -> None:
    async def test(pool: NodePool, process: NodeProcess, node: Node) -> None:
        stream, work = await opened(pool, TTS(audio_ms=10_000))
        assert stream.sample_rate == RATE
        stream.send(Speak(0, 0, 0, 0, "a very long piece", last=True))
        await work.first(AudioOut, TTS_AHEAD_MS // FRAME_MS)
        beats = node.heard
        await wait_for(lambda: node.heard > beats + 0.25, what="two heartbeats")
        assert sent_ms(work) == TTS_AHEAD_MS
        stream.send(Allow(0, 0, 0, TTS_AHEAD_MS + 500))
        await work.first(AudioOut, (TTS_AHEAD_MS + 500) // FRAME_MS)
        stream.send(Allow(0, 0, 0, 20_000))
        await work.first(StreamDone)
        assert sent_ms(work) == 10_000
        assert [word.offset for word in work.of(Words)[0].words] == [0, 2, 7, 12]

    def sent_ms(work: Work) -> int:
        return sum(len(message.pcm) for message in work.of(AudioOut)) * 1000 // (2 * RATE)

    with_node(tmp_path, "tts", test)


def test_all_slots_of_a_tts_node_may_run_ahead_at_once(tmp_path: Path) -> None:
    async def test(pool: NodePool, process: NodeProcess, node: Node) -> None:
        works = [await opened(pool, TTS(audio_ms=TTS_AHEAD_MS)) for _ in range(TtsEngine.default_slots)]
        for stream, _work in works:
            stream.send(Speak(0, 0, 0, 0, "everybody at once", last=True))
        for _stream, work in works:
            await work.first(StreamDone)
            assert sum(len(message.pcm) for message in work.of(AudioOut)) == TTS_AHEAD_MS * RATE * 2 // 1000

    with_node(tmp_path, "tts", test)


def test_partial_and_final_transcripts_come_in_order(tmp_path: Path) -> None:
    async def test(pool: NodePool, process: NodeProcess, node: Node) -> None:
        stream, work = await opened(pool, STT(transcripts=("one two",), partial_ms=40))
        for _ in range(6):
            stream.send(AudioIn(0, 0, 0, LOUD))
        stream.send(Flush(0, 0, 0, 1))
        await work.first(TranscriptOut, 3)
        heard = [(message.text, message.final) for message in work.of(TranscriptOut)]
        assert heard == [("one", False), ("one two", False), ("one two", True)]

    with_node(tmp_path, "stt", test)


# --- failing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("category", "told"), [("unexpected", "fatal"), ("retryable", "retryable"), ("configuration", "configuration")]
)
def test_what_an_engine_raises_ends_its_stream_with_its_category(tmp_path: Path, category: str, told: str) -> None:
    async def test(pool: NodePool, process: NodeProcess, node: Node) -> None:
        stream, work = await opened(pool, LLM.from_wire({"fail_at": 2, "fail_category": category}))
        stream.send(Generate(0, 0, 0, [ChatItem("user", "hello")]))
        error = await work.failure()
        assert (error.code, error.category) == ("engine", told)
        assert "the script says so" in str(error)
        assert len(work.of(Chunk)) == 1
        await opened(pool, LLM())
        assert ("Traceback" in process.log) == (category == "unexpected")

    with_node(tmp_path, "llm", test, slots=1)


def test_a_message_of_the_wrong_kind_fails_its_stream_alone(tmp_path: Path) -> None:
    async def test(pool: NodePool, process: NodeProcess, node: Node) -> None:
        stream, work = await opened(pool, LLM())
        stream.send(Flush(0, 0, 0, 1))
        assert "an llm stream takes no Flush message" in str(await work.failure()).replace("a llm", "an llm")
        await opened(pool, LLM())

    with_node(tmp_path, "llm", test)


def test_a_stream_with_a_hole_fails_and_can_be_tried_again(tmp_path: Path) -> None:
    async def test(pool: NodePool, process: NodeProcess, node: Node) -> None:
        stream, work = await opened(pool, STT())
        stream._sequence += 1  # a message that never arrives
        stream.send(AudioIn(0, 0, 0, LOUD))
        error = await work.failure()
        assert error.category == "retryable"
        assert "message 1 of the stream was lost on its way here; 2 came instead" in str(error)

    with_node(tmp_path, "stt", test)


@pytest.mark.parametrize("service", ["stt", "llm", "tts"])
def test_a_stream_that_is_closed_gives_back_what_it_held(tmp_path: Path, service: str) -> None:
    options: Mapping[str, EngineOptions] = {
        "stt": STT(),
        "llm": LLM(delay_s=60),
        "tts": TTS(delay_s=60),
    }
    ask: Mapping[str, list[Any]] = {
        "stt": [AudioIn(0, 0, 0, LOUD)],
        "llm": [Generate(0, 0, 0, [ChatItem("user", "hello")])],
        "tts": [Speak(0, 0, 0, 0, "hello")],
    }

    async def test(pool: NodePool, process: NodeProcess, node: Node) -> None:
        stream, _ = await opened(pool, options[service])
        for message in ask[service]:
            stream.send(message)
        await wait_for(lambda: record_of(tmp_path) == ["open"], what="the engine's work")
        stream.close()
        await wait_for(lambda: record_of(tmp_path) == ["open", "close"], what="the end of the engine's work")
        await wait_for(lambda: node.used == 0, 1, "the heartbeat that says that the slot is free")

    with_node(tmp_path, service, test, environment=recorded(tmp_path))


def test_streams_that_are_closed_as_soon_as_they_are_opened_leave_nothing_behind(tmp_path: Path) -> None:
    async def test(pool: NodePool, process: NodeProcess, node: Node) -> None:
        for _ in range(50):
            stream = open_work(pool, STT()).stream
            assert stream is not None
            stream.send(AudioIn(0, 0, 0, LOUD))
            stream.close()
            (await opened(pool, STT()))[0].close()
        await opened(pool, STT())
        await wait_for(lambda: record_of(tmp_path).count("open") == record_of(tmp_path).count("close") + 1)
        assert "never awaited" not in process.log

    with_node(tmp_path, "stt", test, environment=recorded(tmp_path), slots=2)


@pytest.mark.slow
def test_what_an_orchestrator_left_behind_is_freed_within_its_lease(tmp_path: Path) -> None:
    async def scenario() -> None:
        endpoint = f"ipc://{tmp_path}/a.nodes"
        with node_process(tmp_path, "stt", f"ipc://{tmp_path}/*.nodes", environment=recorded(tmp_path)) as process:
            async with node_pool(f"ipc://{tmp_path}/b.nodes") as stays:
                async with node_pool(endpoint) as vanishes:
                    await ready(vanishes, process.name)
                    await opened(vanishes, STT())
                node = await ready(stays, process.name)
                await wait_for(lambda: node.used == 1, 1, "the heartbeat that counts the stream")
                await wait_for(lambda: node.used == 0, LEASE_MS / 1000 + 1, "the end of the lease")
                assert record_of(tmp_path) == ["open", "close"]

    run_async(scenario())


def test_a_loop_that_an_engine_hangs_costs_the_node_its_streams_and_it_registers_again(tmp_path: Path) -> None:
    async def test(pool: NodePool, process: NodeProcess, node: Node) -> None:
        idle = await opened(pool, LLM())
        stream, work = await opened(pool, LLM(hang_loop_s=1.5))
        stream.send(Generate(0, 0, 0, []))
        assert isinstance(await work.failure(1.2), NodeLost)
        assert isinstance(idle[1].error, NodeLost)
        again = await ready(pool, process.name, 3)
        assert again is not node
        await wait_for(lambda: again.used == 0, 2, "all slots free")
        assert not work.of(Chunk)

    with_node(tmp_path, "llm", test)


# --- leaving ----------------------------------------------------------------------------------------------------------


def test_a_node_that_is_told_to_stop_finishes_its_streams_and_takes_no_new_ones(tmp_path: Path) -> None:
    async def test(pool: NodePool, process: NodeProcess, node: Node) -> None:
        drained: list[Node] = []
        pool.on_draining = drained.append
        stream, work = await opened(pool, LLM(tokens=("a",) * 5, delay_s=0.1))
        stream.send(Generate(0, 0, 0, []))
        await work.first(Chunk)
        process.drain()
        await wait_for(lambda: drained == [node], what="the news that it drains")
        with pytest.raises(AntiphonError, match="no node serves"):
            open_work(pool, LLM())
        await work.first(StreamDone)
        await process.exits(0)
        assert len(work.of(Chunk)) == 5
        await wait_for(lambda: not pool.nodes, 0.5, "the goodbye")

    with_node(tmp_path, "llm", test)


def test_a_stream_that_does_not_end_is_cut_off_at_the_drain_deadline(tmp_path: Path) -> None:
    async def test(pool: NodePool, process: NodeProcess, node: Node) -> None:
        _, work = await opened(pool, STT())
        began = time.monotonic()
        process.drain()
        await process.exits(0)
        assert 0.5 <= time.monotonic() - began < 3
        assert isinstance(await work.failure(), NodeLost)
        assert "1 streams were still running after 0.5 s" in process.log
        assert record_of(tmp_path) == ["open", "close"]

    with_node(tmp_path, "stt", test, drain_s=0.5, environment=recorded(tmp_path))


def test_a_stream_that_is_refused_as_the_last_one_does_not_hold_up_the_drain(tmp_path: Path) -> None:
    async def test(pool: NodePool, process: NodeProcess, node: Node) -> None:
        work = open_work(pool, LLM(check_delay_s=0.5, voice="unknown"))
        await wait_for(lambda: node.used == 1, 1, "the heartbeat that counts it")
        process.drain()
        await process.exits(0, 3)
        assert work.error is not None
        assert work.error.code == "bad_option"

    with_node(tmp_path, "llm", test, drain_s=20)


def test_a_node_that_is_stopped_while_it_loads_leaves_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        endpoint = f"ipc://{tmp_path}/nodes"
        async with node_pool(endpoint) as pool:
            with node_process(tmp_path, "llm", endpoint, environment={"SCRIPTED_LOAD_S": "60"}) as process:
                await wait_for(lambda: find(pool, "llm-1", "loading"), 15)
                process.drain()
                await process.exits(0, 3)

    run_async(scenario())


# --- booting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        ("nonesuch", "there is no engine llm/nonesuch; installed are rule"),
        ("..rule", "there is no engine llm/..rule"),
        ("tests.engines.nonesuch", "there is no engine llm/tests.engines.nonesuch"),
        ("tests.engines.scripted_stt", "has no class Engine that extends services.engine.LlmEngine"),
    ],
)
def test_an_engine_that_does_not_exist_is_wrong_configuration(tmp_path: Path, engine: str, says: str) -> None:
    async def scenario() -> None:
        with node_process(tmp_path, "llm", f"ipc://{tmp_path}/nodes", engine=engine) as process:
            await process.exits(78)
            assert says in process.log
            assert "Traceback" not in process.log

    run_async(scenario())


@pytest.mark.parametrize("name", ["../x", "a b", "", "x" * 65])
def test_a_name_that_is_no_name_is_wrong_configuration(tmp_path: Path, name: str) -> None:
    from services.runtime.process import NodeSettings, run

    assert run(NodeSettings("llm", "rule", None, ("ipc:///tmp/none",), name)) == 78


def test_an_engine_that_is_not_installed_is_wrong_configuration(tmp_path: Path) -> None:
    async def scenario() -> None:
        environment = {"SCRIPTED_LOAD_ERROR": "unavailable"}
        with node_process(tmp_path, "llm", f"ipc://{tmp_path}/nodes", environment=environment) as process:
            await process.exits(78)
            assert "the scripted engine is not installed" in process.log

    run_async(scenario())


@pytest.mark.slow
def test_boots_that_fail_are_tried_again_later_each_time(tmp_path: Path) -> None:
    async def scenario() -> None:
        counter = tmp_path / "run" / "boots" / "llm-1.failed-boots"
        environment = {"SCRIPTED_LOAD_ERROR": "out of memory"}
        for boot, waits_s in ((1, 1), (2, 2)):
            with node_process(tmp_path, "llm", f"ipc://{tmp_path}/nodes", environment=environment) as process:
                await wait_for(lambda: "trying again in" in process.log, 15, "a boot that failed")
                assert counter.read_text() == str(boot)
                began = time.monotonic()
                await process.exits(75)
                assert waits_s - 0.3 < time.monotonic() - began < waits_s + 1.5
                assert "RuntimeError: out of memory" in process.log
        counter.write_text("2000")  # it has failed for days
        with node_process(tmp_path, "llm", f"ipc://{tmp_path}/nodes", environment=environment) as process:
            await wait_for(lambda: "trying again in 30 s" in process.log, 15, "the longest wait")
            process.drain()
            await wait_for(lambda: process.exit_code is not None, 2, "a stop during the wait")
        async with node_pool(f"ipc://{tmp_path}/nodes") as pool:
            with node_process(tmp_path, "llm", f"ipc://{tmp_path}/nodes"):
                await ready(pool, "llm-1")
                await wait_for(lambda: not counter.exists(), 1, "the end of counting")

    run_async(scenario(), deadline_s=55)
