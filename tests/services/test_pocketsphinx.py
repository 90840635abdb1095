"""The pocketsphinx engine, with its own processes and real speech: what it hears, and what it does when they die."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Callable, Coroutine, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvloop

from protocol.errors import EngineError, EngineUnavailable, OptionError
from services.runtime.loading import engines_of
from services.stt import pocketsphinx_pool
from services.stt.pocketsphinx import STT, Engine, PocketsphinxStream
from services.stt.pocketsphinx_messages import Search
from services.stt.pocketsphinx_pool import Pool
from tests.wer import word_errors

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted(ROOT.glob("examples/audio/*.wav"))
FRAME_BYTES = 640  # 20 ms
TIME_GRAMMAR = "#JSGF V1.0; grammar g; public <r> = what time is it | (hello | hi) [can you hear me];"

Result = TypeVar("Result")
Run = Callable[[Coroutine[Any, Any, Result]], Result]


@pytest.fixture(scope="module")
def run() -> Iterator[Run[Any]]:
    """Runs coroutines in one loop, as a node has."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner.run


@pytest.fixture(scope="module")
def engine(run: Run[Any]) -> Iterator[Engine]:
    loaded = Engine(decoders=2)
    run(loaded.load(4))
    yield loaded
    run(loaded.close())


def pcm_of(path: Path) -> bytes:
    with wave.open(str(path)) as file:
        pcm: bytes = file.readframes(file.getnframes())
        return pcm


async def push(stream: PocketsphinxStream, pcm: bytes, frame_bytes: int = FRAME_BYTES) -> list[str]:
    """Push in frames; the partial transcripts that came."""
    partials = [await stream.push(pcm[at : at + frame_bytes]) for at in range(0, len(pcm), frame_bytes)]
    return [partial for partial in partials if partial is not None]


async def hear(engine: Engine, pcm: bytes, options: STT | None = None, frame_bytes: int = FRAME_BYTES) -> str:
    stream = await engine.open(options or STT(), 16_000)
    try:
        await push(stream, pcm, frame_bytes)
        return (await stream.flush())[0]
    finally:
        await stream.close()


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until the condition holds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # it is about processes and a pool, which set no event
            await asyncio.sleep(0)


def gone(pid: int) -> bool:
    """Whether a process has ended (an ended one whose parent is dead may wait for init to collect it)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until_gone(pids: list[int], deadline_s: float = 5) -> None:
    end = time.monotonic() + deadline_s
    while not all(map(gone, pids)):
        assert time.monotonic() < end, f"still there: {pids}"
        time.sleep(0.01)


def test_the_examples_are_understood(engine: Engine, run: Run[Any]) -> None:
    counts = [word_errors(path.with_suffix(".txt").read_text(), run(hear(engine, pcm_of(path)))) for path in EXAMPLES]
    assert sum(errors for errors, _ in counts) <= 0.15 * sum(words for _, words in counts)
    assert len(counts) == 6


def test_partials_come_before_the_end_and_only_when_they_change(engine: Engine, run: Run[Any]) -> None:
    async def scenario() -> tuple[list[str], str, float]:
        stream = await engine.open(STT(), 16_000)
        pcm = pcm_of(EXAMPLES[0])
        early = await push(stream, pcm[: len(pcm) * 3 // 5])
        partials = early + await push(stream, pcm[len(pcm) * 3 // 5 :])
        assert early
        return partials, *await stream.flush()

    partials, text, confidence = run(scenario())
    assert all(a != b for a, b in pairwise(partials))
    assert text == "hello can you hear me"
    assert 0.5 < confidence <= 1


@pytest.mark.parametrize("frame_bytes", [1, 333, 3_200, 1_000_000])
def test_frames_may_have_any_size(engine: Engine, run: Run[Any], frame_bytes: int) -> None:
    assert run(hear(engine, pcm_of(EXAMPLES[2]), frame_bytes=frame_bytes)) == "what time is it"


def test_segments_without_audio_or_speech_are_empty(engine: Engine, run: Run[Any]) -> None:
    async def scenario() -> list[str]:
        stream = await engine.open(STT(), 16_000)
        texts = []
        for pcm in (b"", b"\0", bytes(640), bytes(64_000), pcm_of(EXAMPLES[0]), b""):
            await push(stream, pcm)
            texts.append((await stream.flush())[0])
        return texts

    assert run(scenario()) == ["", "", "", "", "hello can you hear me", ""]


def test_nothing_of_one_stream_reaches_the_next(run: Run[Any]) -> None:
    async def scenario() -> None:
        engine = Engine(decoders=1)
        await engine.load(1)
        try:
            stream = await engine.open(STT(), 16_000)
            first = await push(stream, pcm_of(EXAMPLES[3])), await stream.flush()
            for path in (EXAMPLES[5], EXAMPLES[1]):
                await hear(engine, pcm_of(path))
            left = await engine.open(STT(grammar=TIME_GRAMMAR, words={"what": "B AA B"}), 16_000)
            await push(left, pcm_of(EXAMPLES[1]))
            await left.close()  # in the middle of its utterance
            stream = await engine.open(STT(), 16_000)
            assert (await push(stream, pcm_of(EXAMPLES[3])), await stream.flush()) == first
        finally:
            await engine.close()

    run(scenario())


def test_the_loop_keeps_its_pace_while_a_long_segment_is_decoded(engine: Engine, run: Run[Any]) -> None:
    gaps: list[float] = []

    async def tick() -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.01)
            gaps.append(time.monotonic() - last)
            last = time.monotonic()

    async def scenario() -> str:
        ticking = asyncio.get_running_loop().create_task(tick())
        try:
            return await hear(engine, b"".join(map(pcm_of, EXAMPLES)) * 4, frame_bytes=64_000)  # 51 s
        finally:
            ticking.cancel()

    assert len(run(scenario()).split()) > 80
    assert len(gaps) > 50
    assert max(gaps) < 0.2


def test_a_grammar_is_all_that_is_heard(engine: Engine, run: Run[Any]) -> None:
    options = STT(grammar=TIME_GRAMMAR)
    run(engine.check(options))
    assert run(hear(engine, pcm_of(EXAMPLES[2]), options)) == "what time is it"
    assert run(hear(engine, pcm_of(EXAMPLES[0]), options)) == "hello can you hear me"
    assert run(hear(engine, pcm_of(EXAMPLES[3]))) == "what are your opening hours"  # and only by that stream


def test_keywords_are_found_in_speech_in_their_order(engine: Engine, run: Run[Any]) -> None:
    options = STT(keywords=("help me", "good morning", ("opening hours", 1e-20)))
    run(engine.check(options))
    pcm = pcm_of(EXAMPLES[3]) + pcm_of(EXAMPLES[1])
    assert run(hear(engine, pcm, options)) == "opening hours good morning help me"
    assert run(hear(engine, pcm_of(EXAMPLES[2]), options)) == ""


def test_words_may_be_given_a_pronunciation(engine: Engine, run: Run[Any]) -> None:
    grammar = "#JSGF V1.0; grammar g; public <r> = wottime is it | margherita;"
    options = STT(grammar=grammar, words={"wottime": "W AH T T AY M", "margherita": "M AA R G ER IY T AH"})
    run(engine.check(options))
    assert run(hear(engine, pcm_of(EXAMPLES[2]), options)) == "wottime is it"


@pytest.mark.parametrize(
    ("grammar", "complaint"),
    [
        ("public <r> = what (time;", "syntax error"),
        ("<r> = what;", "[Nn]o public rules"),
        ("public <r> = <r> what | time;", "right-recursion"),
        ("public <r> = <nowhere>;", "nowhere"),
        ("public <r> = a margherita;", "not in the dictionary: 'margherita'; give their pronunciation"),
        ("public <r> = Hello;", "'Hello'; the dictionary is lower-case"),
    ],
)
def test_what_is_wrong_with_a_grammar_is_said(
    engine: Engine, run: Run[Any], capfd: pytest.CaptureFixture[str], grammar: str, complaint: str
) -> None:
    options = STT(grammar=f"#JSGF V1.0; grammar g; {grammar}")
    with pytest.raises(OptionError, match=rf"(?s)pocketsphinx\.STT: option 'grammar' is .*{complaint}"):
        run(engine.check(options))
    assert capfd.readouterr() == ("", "")  # pocketsphinx prints and logs; nothing of it reaches ours


def test_keywords_that_nobody_can_pronounce_are_named(engine: Engine, run: Run[Any]) -> None:
    with pytest.raises(OptionError, match=r"option 'keywords'.*'xyzzy'"):
        run(engine.check(STT(keywords=("good xyzzy",))))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"grammar": TIME_GRAMMAR, "keywords": ("hello",)}, "'keywords'.*not both"),
        ({"grammar": "hello"}, "'grammar'.*#JSGF"),
        ({"grammar": "#JSGF V1.0;\nimport <a.b>;"}, "(?s)'grammar'.*no import"),
        ({"keywords": ("hello", " ")}, "'keywords'.*'' is none"),
        ({"keywords": ("hello /1/\nworld",)}, "'keywords'"),
        ({"keywords": (("hello", 2.0),)}, "'keywords'.*<= 1.0"),
        ({"keywords": (("hello", 1e-60),)}, "'keywords'.*1e-50"),
        ({"words": {"two words": "T UW"}}, "'words'.*'two words' is not one word"),
        ({"words": {"zwei": "TS W AY"}}, "'words'.*phones of 'zwei' must be of AA AE"),
    ],
)
def test_wrong_options_are_refused_where_they_are_written(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(OptionError, match=complaint):
        STT(**options)


def test_options_travel() -> None:
    options = STT(keywords=("hello", ("good morning", 1e-30)), words={"zwei": "T S W AY"})
    assert STT.from_wire(options.spec().options) == options
    assert STT().spec().options == {}
    assert "pocketsphinx" in engines_of("stt")
    assert not [name for name in engines_of("stt") if name.startswith("pocketsphinx_")]


def test_who_finds_no_decoder_waits_for_one(engine: Engine, run: Run[Any]) -> None:
    async def scenario() -> list[str]:
        texts = await asyncio.gather(*(hear(engine, pcm_of(path)) for path in EXAMPLES[:4]))
        assert len(engine.pids) <= 2
        return list(texts)

    assert run(scenario())[2] == "what time is it"


def test_a_cancelled_stream_gives_its_decoder_back(run: Run[Any]) -> None:
    async def scenario() -> None:
        engine = Engine(decoders=1)
        await engine.load(1)
        before = engine.pids
        try:
            for pcm in (pcm_of(EXAMPLES[5]), b"".join(map(pcm_of, EXAMPLES))):
                busy = asyncio.create_task(hear(engine, pcm, frame_bytes=len(pcm)))
                waiting = asyncio.create_task(hear(engine, pcm))
                await until(lambda: engine._pool is not None and not engine._pool._idle)
                for task in (busy, waiting):
                    task.cancel()
                await asyncio.gather(busy, waiting, return_exceptions=True)
                assert busy.cancelled()
                assert await hear(engine, pcm_of(EXAMPLES[2])) == "what time is it"
            assert engine.pids == before
        finally:
            await engine.close()

    run(scenario())


def test_a_killed_decoder_fails_its_stream_only_and_is_replaced(engine: Engine, run: Run[Any]) -> None:
    async def scenario() -> None:
        pcm = pcm_of(EXAMPLES[0])
        stream, other = await engine.open(STT(), 16_000), await engine.open(STT(), 16_000)
        await push(other, pcm[:6_400])
        await push(stream, pcm[:6_400])
        killed = engine.pids[-1] if stream._worker is None else stream._worker.pid
        os.kill(killed, signal.SIGKILL)
        with pytest.raises(EngineError, match="died") as caught:
            await push(stream, pcm[6_400:])
        assert caught.value.category == "retryable"
        await push(other, pcm[6_400:])
        assert (await other.flush())[0] == "hello can you hear me"
        assert [await hear(engine, pcm) for _ in range(2)] == ["hello can you hear me"] * 2
        assert killed not in engine.pids

    run(scenario())


def test_decoders_outlive_the_signals_that_drain_a_node(engine: Engine, run: Run[Any]) -> None:
    for pid in engine.pids:
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    before = set(engine.pids)
    assert run(hear(engine, pcm_of(EXAMPLES[2]))) == "what time is it"
    assert set(engine.pids) == before


def test_close_leaves_no_process_behind(run: Run[Any]) -> None:
    async def scenario() -> list[int]:
        engine = Engine()
        await engine.load(2)
        stream = await engine.open(STT(), 16_000)
        await push(stream, pcm_of(EXAMPLES[0]))
        pids = engine.pids
        await engine.close()
        await stream.close()
        return pids

    pids = run(scenario())
    assert len(pids) == 2
    assert all(map(gone, pids))


def test_decoders_end_with_a_node_that_is_killed() -> None:
    code = (
        "import asyncio\nfrom services.stt.pocketsphinx import Engine\n"
        "async def main():\n"
        "    engine = Engine(); await engine.load(2); print(*engine.pids, flush=True); await asyncio.Event().wait()\n"
        "asyncio.run(main())"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as node:
        assert node.stdout is not None
        pids = [int(pid) for pid in node.stdout.readline().split()]
        node.kill()
    assert len(pids) == 2
    wait_until_gone(pids)


def test_a_start_that_is_cancelled_leaves_no_process(run: Run[Any]) -> None:
    async def scenario() -> None:
        pool = Pool("recognise", 1)
        before = children()
        lending = asyncio.create_task(pool.lend(Search()))
        await until(lambda: children() != before)
        lending.cancel()
        await asyncio.gather(lending, return_exceptions=True)
        assert lending.cancelled()
        assert children() == before
        pool.take_back(await pool.lend(Search()))  # its place is free again
        await pool.close()

    run(scenario())


def children() -> set[str]:
    """The running child processes of this one."""
    tasks = Path("/proc/self/task").iterdir()
    pids = {pid for task in tasks for pid in (task / "children").read_text().split()}
    return {pid for pid in pids if not gone(int(pid))}


def test_a_damaged_installation_is_told(run: Run[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("POCKETSPHINX_PATH", str(tmp_path))  # where pocketsphinx looks for its model
    with pytest.raises(EngineUnavailable, match=r"cannot be loaded.*pip install"):
        run(Engine().load(1))


def test_a_decoder_that_hangs_is_given_up(engine: Engine, run: Run[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        stream = await engine.open(STT(), 16_000)
        await push(stream, bytes(6_400))
        assert stream._worker is not None
        os.kill(stream._worker.pid, signal.SIGSTOP)
        monkeypatch.setattr(pocketsphinx_pool, "REPLY_DEADLINE_S", 0.2)
        with pytest.raises(EngineError, match="did not answer"):
            await push(stream, bytes(6_400))
        monkeypatch.undo()
        assert await hear(engine, pcm_of(EXAMPLES[2])) == "what time is it"

    run(scenario())


def test_the_node_itself_never_loads_pocketsphinx() -> None:
    code = (
        "import asyncio, sys; from services.stt.pocketsphinx import STT, Engine; STT(keywords=('hello',));"
        "sys.exit('pocketsphinx' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


def test_an_engine_that_is_not_loaded_says_so(run: Run[Any]) -> None:
    with pytest.raises(EngineError, match="before it was loaded"):
        run(Engine().open(STT(), 16_000))
